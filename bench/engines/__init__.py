"""Where independent jobs run: here, or in processes beside this one."""

from bench.engines.base import Engine
from bench.registry import Entry, Registry

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

__all__ = ["ENGINES", "Engine"]
