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
    """The part of the memory of the machine, or of this process's control group, that can be had; 100 if unknown."""
    return min(_free_of_machine(), _free_of_group())


def _free_of_group() -> float:
    """The free part of the memory that the control group of this process may use (cgroup v2); 100 without a limit."""
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            group = next(line[3:].strip() for line in file if line.startswith("0::"))
        folder = f"/sys/fs/cgroup{group}".rstrip("/")
        with open(f"{folder}/memory.max", encoding="ascii") as file:
            most = int(file.read())  # ValueError for "max"
        with open(f"{folder}/memory.current", encoding="ascii") as file:
            used = int(file.read())
        with open(f"{folder}/memory.stat", encoding="ascii") as file:
            used -= next((int(line.split()[1]) for line in file if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError, StopIteration):
        return 100.0
    return 100.0 * max(most - used, 0) / most if most else 100.0


def _free_of_machine() -> float:
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
