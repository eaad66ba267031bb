"""Whose jobs they are, and what follows from that."""

from __future__ import annotations

import pytest

from dts.model import ALL_ROUTES, Function, Limits, Namespace, Route, User
from dts.server.access.parties import Parties

FUNCTION, NAMESPACE, USER = Function("crm/call"), Namespace("crm"), User("ann", b"")


@pytest.mark.parametrize(
    ("parties", "paused"),
    [
        (Parties("ann", "crm/call", USER, NAMESPACE, FUNCTION), []),
        (Parties("ann", "crm/call", None, None, None), []),
        (Parties("ann", "crm/call", User("ann", b"", paused=True), NAMESPACE, FUNCTION), ["user ann"]),
        (Parties("ann", "crm/call", USER, Namespace("crm", paused=True), FUNCTION), ["namespace crm"]),
        (Parties("ann", "crm/call", USER, NAMESPACE, Function("crm/call", paused=True)), ["function crm/call"]),
        (Parties("ann", "crm/call", USER, None, None, (Route(ALL_ROUTES, paused=True),)), ["route *"]),
    ],
)
def test_who_is_paused(parties: Parties, paused: list[str]) -> None:
    assert [str(each) for each in parties.paused] == paused


@pytest.mark.parametrize(
    ("usual", "asked", "most", "priority"),
    [(5, None, None, 5), (7, None, None, 7), (7, 0, None, 0), (5, 9, None, 9), (5, 9, 6, 6), (5, None, 3, 3)],
)
def test_priority(usual: int, asked: int | None, most: int | None, priority: int) -> None:
    user = User("ann", b"", limits=Limits(priority=most))
    assert Parties("ann", "crm/call", user, NAMESPACE, Function("crm/call", priority=usual)).priority(asked) == priority
