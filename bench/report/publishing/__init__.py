"""What leaves the machine: bundles of finished cells, and the static site of all boards."""
