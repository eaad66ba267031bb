"""Whether an exception is one that `retry_on` names, by its class, a base class, or any name that leads to either."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

from dts.worker.attempt.introspection import FUNCTIONS, bases_of, is_a, names_of

_exceptions: Any = BaseExceptionGroup.__dict__["exceptions"]
_MAX_LEAVES = 1000
"""Exceptions of a group that are looked at. A group has as many as tasks have failed, and each costs a look."""


def leaves_of(error: BaseException) -> list[BaseException]:
    """The exceptions in a group, and in the groups within it; of an exception that is no group, itself."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting and len(found) < _MAX_LEAVES:
        each = waiting.pop()
        if is_a(each, BaseExceptionGroup):
            waiting += reversed(cast(Sequence[BaseException], _exceptions.__get__(each)))
        else:
            found.append(each)
    return found


def is_named(kind: type, names: Collection[str]) -> bool:
    """Whether any of the names means this class or one of its base classes."""
    if not names_of(kind).isdisjoint(names):
        return True
    bases = bases_of(kind)
    return any(base is found for name in names for found in _under(name) for base in bases)


def _under(name: str) -> Iterator[object]:
    """What code finds under a dotted name. Nothing is imported for that: what raised the exception has done it."""
    for path in (name, FUNCTIONS + name):
        module, _, attribute = path.rpartition(".")
        if (owner := sys.modules.get(module)) is not None:
            try:
                yield getattr(owner, attribute, None)
            except Exception:  # noqa: BLE001 - the module's own __getattr__, which may raise anything
                continue
