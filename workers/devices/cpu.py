"""The CPU as a device. Its memory is what the machine, or the container around us, leaves."""

import platform
from functools import cache
from pathlib import Path

import psutil

from workers.devices.base import CPU_ID, Device

CGROUP = Path("/sys/fs/cgroup")


def read(cgroup: Path = CGROUP) -> Device:
    """The CPU with its memory now, within the limit of the container if there is one."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is not None and used is not None and limit < total:
        total, free = limit, max(0, min(free, limit - used + _reclaimable(cgroup)))
    return Device(
        id=CPU_ID,
        kind="cpu",
        name=_name(),
        memory_total=total,
        memory_free=free,
        utilisation=psutil.cpu_percent(interval=None) / 100,
    )


def _number(path: Path) -> int | None:
    """The number in a control file; None where there is no such file, or no limit (`max`)."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _reclaimable(cgroup: Path) -> int:
    """Page cache counts as used in a container, yet the kernel gives it back when asked."""
    try:
        lines = (cgroup / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


@cache
def _name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or "CPU"
