"""The dispatcher's model of a route: the runs that have a backlog there, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace

from dts.model import Backlog
from dts.server.access.parties import Parties
from dts.server.publish.fair import Path
from dts.server.publish.levels import Levels, Turn

_LEAVES = 100  # that get a share at once


@dataclass(slots=True)
class Leaf:
    """Jobs of a run, or single jobs of a user, of one function: how many wait, and of how many it is the turn now."""

    row: Backlog
    parties: Parties
    share: int = 0

    @property
    def weights(self) -> tuple[float, float, float]:
        """The weights of its namespace, its user and its run."""
        return *self.parties.weights, self.row.weight

    @property
    def share_blocks(self) -> int:
        """In how many blocks its share is, about."""
        return -(-self.share * self.row.blocks // max(1, self.row.jobs)) + 1


class RouteBacklog:
    """The leaves of a route that have a backlog. Costs the same however many jobs they have."""

    def __init__(self) -> None:
        self.leaves: dict[Turn, Leaf] = {}
        self._levels = Levels()

    def update(self, rows: Iterable[tuple[Backlog, Parties]], now: float, *, without: Container[Path] = ()) -> None:
        """Take in what the store says; what is paused takes no part, nor what is at the paths `without`."""
        found: dict[Turn, Leaf] = {}
        rows = list(rows)
        priorities: dict[tuple[int, int | None], int | None] = {}  # many rows are of the same parties
        for row, parties in rows:
            key = id(parties), row.priority
            if key not in priorities:
                priorities[key] = None if parties.paused else parties.priority(row.priority)
            priority, path = priorities[key], _path(row)
            if priority is None or path in without:
                continue
            turn = Turn(priority, path)
            leaf = found.setdefault(turn, Leaf(row, parties))
            if leaf.row is not row:  # its weight has just been changed
                more = leaf.row.jobs + row.jobs, leaf.row.blocks + row.blocks
                leaf.row = replace(row, jobs=more[0], blocks=more[1])
        for turn in self.leaves.keys() - found.keys():
            self.remove(turn)
        for turn, leaf in found.items():
            known = self.leaves.get(turn)
            if known is None or known.weights != leaf.weights:  # most are there already, as they were
                self._levels.add(turn, leaf.weights, now)
        self.leaves = found

    def remove(self, turn: Turn) -> None:
        """Take a leaf out."""
        if self.leaves.pop(turn, None) is not None:
            self._levels.remove(turn)

    def share_out(
        self, room: float, message_of: Callable[[Leaf], tuple[int, float]], now: float
    ) -> list[tuple[Turn, Leaf]]:
        """Give room, in seconds of work, to leaves, a message at a time; those that have got some, in order of turns.

        `message_of` says how many jobs a message of a leaf has, and how many seconds of work that is.
        """
        shares: dict[Turn, Leaf] = {}
        while room > 0 and len(shares) < _LEAVES and (turn := self._levels.first(now)):
            if (leaf := shares.get(turn)) is None:
                leaf = shares[turn] = self.leaves[turn]
                leaf.share = 0
            size, work = message_of(leaf)
            leaf.share += size
            room -= work
            self._levels.charge(turn, work, now)
            if leaf.share >= leaf.row.jobs:
                self.remove(turn)  # if there is more by now, the next look finds it
        return list(shares.items())

    def sent(self, turn: Turn, jobs: int, blocks: int) -> None:
        """Count jobs no longer that have gone out, in so many blocks that are done."""
        if (leaf := self.leaves.get(turn)) is not None:
            leaf.row = replace(leaf.row, jobs=leaf.row.jobs - jobs, blocks=max(1, leaf.row.blocks - blocks))


def _path(row: Backlog) -> Path:
    """Where a row is in the tree of shares: namespace, user, run; the last name tells rows of one run apart."""
    return row.function.partition("/")[0], row.user, row.run, f"{row.function} {row.priority}"
