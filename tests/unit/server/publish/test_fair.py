"""Turns: who gets how much of the work."""

from __future__ import annotations

import random
import time
from collections import Counter

from dts.server.publish.fair import _MOST_LEFT, FairShare, Path


def turns(share: FairShare, count: int, work: dict[Path, float] | None = None) -> Counter[Path]:
    """Give so many turns; the work that each leaf was given."""
    given: Counter[Path] = Counter()
    for _ in range(count):
        path = share.first()
        cost = (work or {}).get(path, 1.0)
        share.charge(path, cost)
        given[path] += cost  # type: ignore[assignment]
    return given


def test_namespaces_then_users_then_runs_get_the_same() -> None:
    share = FairShare()
    paths = [("a", "ann", "1"), ("a", "ann", "2"), ("a", "bob", "3"), ("b", "bob", "4")]
    for path in paths:
        share.add(path)
    given = turns(share, 800)
    assert [given[path] for path in paths] == [100, 100, 200, 400]


def test_turns_are_counted_in_work() -> None:
    share = FairShare()
    slow, fast = ("a", "ann", "1"), ("a", "bob", "2")
    share.add(slow)
    share.add(fast)
    given = turns(share, 1000, {slow: 50.0, fast: 0.5})
    assert abs(given[slow] - given[fast]) <= 50


def test_who_comes_later_is_next_and_makes_up_for_nothing() -> None:
    share = FairShare()
    ann, bob = ("a", "ann", "1"), ("a", "bob", "2")
    share.add(ann)
    turns(share, 1000)
    share.add(bob)
    assert turns(share, 2)[bob] >= 1
    given = turns(share, 100)
    assert abs(given[ann] - given[bob]) <= 1


def test_who_leaves_and_comes_back_at_once_gains_nothing() -> None:
    share = FairShare()
    ann, bob = ("a", "ann", "1"), ("a", "bob", "2")
    share.add(ann)
    given: Counter[Path] = Counter()
    for _ in range(300):
        share.add(bob)
        given += turns(share, 1, {bob: 3.0})
        share.remove(bob)
    assert abs(given[ann] - given[bob]) <= 4


def test_what_is_empty_goes() -> None:
    share = FairShare()
    assert share.first() == ()
    share.add(("a", "ann", "1"))
    share.add(("a", "ann", "1"))
    share.add(("a", "bob", "2"))
    share.remove(("a", "ann", "1"))
    assert share.first() == ("a", "bob", "2")
    share.remove(("a", "bob", "2"))
    assert not share
    assert share.first() == ()


def test_it_keeps_nothing_of_those_that_are_gone() -> None:
    share = FairShare()
    share.add(("a", "zoe", "0"))
    for number in range(2000):
        path = ("a", f"user {number}", "1")
        share.add(path)
        turns(share, random.Random(number).randrange(4))
        share.remove(path)
        turns(share, 2)
    node = share._root.children["a"]
    assert len(node.children) == 1
    assert len(node.left) <= _MOST_LEFT
    assert len(node.queue) < 100


def test_many_runs_of_a_user_that_have_one_turn_each_cost_little() -> None:
    """Each single job is a run of its own: none moves the others' time on, so what is remembered has a bound."""
    share = FairShare()
    for number in range(30_000):
        share.add(("a", "ann", f"run {number}"))
    began = time.process_time()
    while share:
        path = share.first()
        share.charge(path, 1.0)
        share.remove(path)
        node = share._root.children.get("a")
        if node is not None:
            assert len(node.children["ann"].left) <= _MOST_LEFT
    assert time.process_time() - began < 5  # a look at all of them for each took minutes
