"""What the kernel reports about a process."""

from __future__ import annotations

import os
import resource

_TICKS = os.sysconf("SC_CLK_TCK")  # a second


def resident_size(pid: int | str = "self") -> int:
    """Bytes of memory that a process holds; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def processor_time(pid: int) -> float:
    """Seconds for which the main thread of a process has had a processor; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/task/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def free_memory_percent() -> float:
    """The part of the machine's memory that can be had without swapping; 100 where the kernel does not say."""
    found = {}
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in ("MemTotal", "MemAvailable"):
                    found[name] = int(rest.split()[0])
    except OSError:
        return 100.0
    return 100.0 * found["MemAvailable"] / found["MemTotal"] if len(found) == 2 else 100.0
