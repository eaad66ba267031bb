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
