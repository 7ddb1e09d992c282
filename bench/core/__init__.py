"""What every other part may use: errors, progress, registries, typed settings, text matching."""
