"""Whose turn it is: a share of the work by weight for each namespace, for each user in one, for each run of a user.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996) on every level of a tree. Each
node has the work that it was given, divided by its weight, and the turn is always that of the sibling where that is
least. One that comes later starts where the others are, so it neither makes up for what it did not ask for, nor waits
for what they got.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest

Path = tuple[str, ...]
"""The names from the top down to a leaf, such as namespace, user and run."""

_serial = count()

_MOST_LEFT = 1000
"""Children that are gone of which a node remembers what they were given: each single job is a run, thus a child."""


@dataclass(slots=True)
class _Node:
    """`given` is the work by weight that it was given, as its siblings'; `now` that of the child whose turn was last.

    `queue` has a row for each child, and outdated ones, which are passed over. `left` are children that are gone but
    were given more than their siblings: should they come back soon, it counts.
    """

    given: float = 0.0
    now: float = 0.0
    weight: float = 1.0
    children: dict[str, _Node] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    queue: list[tuple[float, int, str]] = field(default_factory=list)

    def child(self, name: str) -> _Node:
        """The child of that name, made if there is none."""
        if (known := self.children.get(name)) is None:
            known = self.children[name] = _Node(max(self.now, self.left.pop(name, 0.0)))
            self._put(name, known)
        return known

    def first(self) -> str:
        """The name of the child whose turn it is."""
        while True:
            given, _, name = self.queue[0]
            if (child := self.children.get(name)) is not None and child.given == given:
                return name
            heapq.heappop(self.queue)

    def charge(self, name: str, work: float) -> _Node:
        """Count work that a child was given."""
        child = self.children[name]
        self.now = max(self.now, child.given)
        child.given += work / child.weight
        self._put(name, child)
        return child

    def remove(self, name: str) -> None:
        """Take a child out."""
        gone = self.children.pop(name)
        if gone.given > self.now:
            self.left[name] = gone.given
        if len(self.left) > _MOST_LEFT:
            ahead = [(each, given) for each, given in self.left.items() if given > self.now]
            self.left = dict(ahead[-_MOST_LEFT // 2 :])
        if len(self.queue) > 2 * len(self.children) + 64:
            self._drop_outdated()

    def _drop_outdated(self) -> None:
        known = self.children
        self.queue = [row for row in self.queue if row[2] in known and known[row[2]].given == row[0]]
        heapq.heapify(self.queue)

    def _put(self, name: str, child: _Node) -> None:
        heapq.heappush(self.queue, (child.given, next(_serial), name))


class FairShare:
    """The leaves that have something to do. A turn costs the logarithm of how many there are."""

    def __init__(self) -> None:
        self._root = _Node()

    def __bool__(self) -> bool:
        return bool(self._root.children)

    def add(self, path: Path, weights: Sequence[float] = ()) -> None:
        """Let a leaf take part, with weights along its path, 1 where none is given; it may do already."""
        node = self._root
        for name, weight in zip_longest(path, weights[: len(path)], fillvalue=1.0):
            node = node.child(str(name))
            node.weight = float(weight)

    def remove(self, path: Path) -> None:
        """Take a leaf out, and what is empty without it."""
        nodes = [self._root]
        for name in path[:-1]:
            nodes.append(nodes[-1].children[name])
        for node, name in zip(reversed(nodes), reversed(path), strict=True):
            node.remove(name)
            if node.children:
                break

    def first(self) -> Path:
        """The leaf whose turn it is; an empty path if there is none."""
        path: list[str] = []
        node = self._root
        while node.children:
            path.append(node.first())
            node = node.children[path[-1]]
        return tuple(path)

    def charge(self, path: Path, work: float) -> None:
        """Count work that a leaf was given, in any unit."""
        node = self._root
        for name in path:
            node = node.charge(name, work)
