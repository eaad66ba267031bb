"""Whether the operation log is whole: what the server finds with its key, and the links as they are seen from here.

Each entry has the hash of the one before. The hashes need the server's key file, so the server recomputes them; that
the numbers run without gaps and each `previous` is the `hash` before it needs no key, and is not left to the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dts.management.api.resources import Operations, Record

MAX_FAULTS = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many entries were looked at, and which are at fault: `seq` and `problem` of each."""

    entries: int
    faults: tuple[Record, ...]

    @property
    def valid(self) -> bool:
        """Whether the log is whole."""
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """For a script."""
        return {"valid": self.valid, "entries": self.entries, "faults": list(self.faults)}


def in_words(fault: Record) -> str:
    """A fault for a person: with the number of the entry, unless it says that itself, or is of none."""
    seq, problem = fault["seq"], str(fault["problem"])
    return problem if seq == 0 or problem.startswith("entr") else f"entry {seq}: {problem}"


async def check_chain(operations: Operations) -> Verdict:
    """Have the server verify the log, and check its links here: those of the same entries, however many come meanwhile.

    Raises:
        RequestRefused: the caller may not read the log.
        ServerUnavailable: the server cannot be reached.
    """
    answer = await operations.verify()
    faults: list[Record] = list(answer["faults"])
    entries, last = int(answer["entries"]), int(answer["last"])
    shown, broken = await _check_links(operations, last)
    known = {int(fault["seq"]) for fault in faults}
    faults += [fault for fault in broken if fault["seq"] not in known]
    if shown != entries and len(broken) < MAX_FAULTS:
        problem = f"the server has verified {entries} entries up to this one and shows {shown}"
        faults.append({"seq": last, "problem": problem})
    if not (answer["valid"] or faults):
        faults.append({"seq": last, "problem": "the server finds that the log does not verify"})
    return Verdict(entries, tuple(sorted(faults, key=lambda fault: int(fault["seq"])))[:MAX_FAULTS])


async def _check_links(operations: Operations, last: int) -> tuple[int, list[Record]]:
    """Walk the log from its oldest entry to number `last`; how many entries there are and those that do not fit."""
    count, expected = 0, 1
    previous: object = None
    faults: list[Record] = []
    async for entry in operations.list(order="oldest"):
        seq = int(entry["seq"])
        if seq > last or len(faults) >= MAX_FAULTS:
            break
        count += 1
        if seq != expected:
            gap = f"entry {expected} is" if seq == expected + 1 else f"entries {expected} to {seq - 1} are"
            faults.append({"seq": expected, "problem": f"{gap} missing"})
        elif previous is not None and entry["previous"] != previous:
            faults.append({"seq": seq, "problem": "does not continue the entry before it"})
        previous, expected = entry["hash"], seq + 1
    return count, faults
