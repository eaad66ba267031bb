"""The dispatcher's model of a route."""

from __future__ import annotations

from collections import Counter

from dts.model import Backlog, Function, User
from dts.server.access.parties import Parties
from dts.server.publish.route_backlog import Leaf, RouteBacklog

FUNCTION = Function("crm/call")


def parties(user: str, weight: float = 1.0, *, paused: bool = False) -> Parties:
    return Parties(user, FUNCTION.name, User(user, b"", weight=weight, paused=paused), None, FUNCTION)


def message_of(leaf: Leaf) -> tuple[int, float]:
    return 1, 1.0


def shares(model: RouteBacklog, room: float = 120.0) -> Counter[str]:
    """How many jobs of each run get a share."""
    return Counter({leaf.row.run: leaf.share for _, leaf in model.share_out(room, message_of, 0.0)})


def test_weights_that_are_changed_hold_from_the_next_look_on() -> None:
    model = RouteBacklog()
    rows = [Backlog(run, user, FUNCTION.name, 10_000) for run, user in (("1", "ann"), ("2", "bob"))]
    model.update([(row, parties(row.user)) for row in rows], 0.0)
    assert shares(model) == {"1": 60, "2": 60}
    model.update([(row, parties(row.user, 3.0 if row.user == "ann" else 1.0)) for row in rows], 0.0)
    assert shares(model) == {"1": 90, "2": 30}


def test_what_is_paused_or_gone_gets_nothing_and_rows_that_differ_in_weight_are_one_leaf() -> None:
    model = RouteBacklog()
    rows = [Backlog("1", "ann", FUNCTION.name, 5), Backlog("1", "ann", FUNCTION.name, 7, None, 2.0)]
    other = Backlog("2", "bob", FUNCTION.name, 100)
    model.update([*((row, parties("ann")) for row in rows), (other, parties("bob", paused=True))], 0.0)
    [leaf] = model.leaves.values()
    assert (leaf.row.jobs, leaf.row.blocks) == (12, 2)
    assert shares(model) == {"1": 12}
    assert not model.leaves, "all of it has a share"
    model.update([(other, parties("bob"))], 0.0)
    assert shares(model, 5.0) == {"2": 5}
    model.update([], 0.0)
    assert shares(model) == {}
