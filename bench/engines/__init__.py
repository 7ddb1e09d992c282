"""Engines that run independent jobs: here, in other processes, or on other machines."""

from bench.core.registry import Entry, Registry
from bench.engines.base import Engine

ENGINES: Registry[Engine] = Registry("engine", "bench.engines.base:Engine")

ENGINES.add(
    "serial",
    Entry(target="bench.engines.serial:Serial", summary="one job after the other, in this process"),
)
ENGINES.add(
    "processes",
    Entry(
        target="bench.engines.processes:Processes",
        summary="several processes on this machine, the cores shared out among them",
    ),
)
ENGINES.add(
    "ray",
    Entry(
        target="bench.engines.ray:Ray",
        summary="tasks of Ray, on this machine or a cluster; a node may die",
        source="Ray (extra: ray)",
    ),
)
ENGINES.add(
    "slurm",
    Entry(
        target="bench.engines.slurm:Slurm",
        summary="arrays of jobs of Slurm on a shared folder; tasks may die",
        source="submitit (extra: slurm)",
    ),
)

__all__ = ["ENGINES", "Engine"]
