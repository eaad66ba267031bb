"""The children of a worker that are ready, by what they can be given.

blank     belongs to no scope yet: it can be given a message of any, and has run nothing
working   has been given messages that it has not finished, all of one scope
idle      belongs to a scope and has nothing to do: it keeps what it has imported

A scope is a namespace, or one deployed version of a function.
"""

from __future__ import annotations

from collections.abc import Iterator

from dts.worker.pool.child_process import ChildProcess


class Roster:
    """Each child is in exactly one of the three groups. Of the idle ones, the least recently used is the first."""

    def __init__(self) -> None:
        self.blank: dict[ChildProcess, None] = {}
        self.working: dict[ChildProcess, None] = {}
        self.idle: dict[ChildProcess, None] = {}

    def __iter__(self) -> Iterator[ChildProcess]:
        return iter((*self.working, *self.idle, *self.blank))

    def __len__(self) -> int:
        return len(self.working) + len(self.idle) + len(self.blank)

    def __contains__(self, child: object) -> bool:
        return child in self.working or child in self.idle or child in self.blank

    def place(self, child: ChildProcess) -> None:
        """Put a child in its group, after it came or what it has been given has changed."""
        group = self.working if child.given else self.idle if child.scope else self.blank
        if child not in group:
            for other in (self.blank, self.working, self.idle):
                other.pop(child, None)
            group[child] = None

    def discard(self, child: ChildProcess) -> None:
        """Take out a child that is given nothing any more."""
        for group in (self.blank, self.working, self.idle):
            group.pop(child, None)

    def idle_of(self, scope: str) -> ChildProcess | None:
        """The idle child of a scope that was used last; None if there is none."""
        for child in reversed(self.idle):
            if child.scope == scope:
                return child
        return None

    def with_room(self, scope: str, *, ahead: bool) -> ChildProcess | None:
        """The child at work for a scope that can be given one more message, or one `ahead`; None if there is none.

        Of several it is the one with the least to do.
        """
        found = [
            child
            for child in self.working
            if child.scope == scope and not child.retiring and len(child.given) < child.limit(ahead=ahead)
        ]
        return min(found, key=lambda child: child.load) if found else None

    def surplus(self, most: int) -> list[ChildProcess]:
        """The least recently used children, of which there are more than `most` idle ones."""
        return list(self.idle)[: len(self.idle) - most] if len(self.idle) > most else []
