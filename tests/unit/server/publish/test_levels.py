"""Turns by priority, and a simulated day of them."""

from __future__ import annotations

from collections import Counter

from dts.server.publish.fair import FairShare
from dts.server.publish.levels import AGE, OWED, Levels, Turn

ANN, BOB = ("a", "ann", "1"), ("a", "bob", "2")


def run_for(levels: Levels, seconds: float, *, now: float = 0.0, work: float = 1.0) -> Counter[Turn]:
    """Give turns for so many seconds of work, one after the other; the work that each leaf got."""
    given: Counter[Turn] = Counter()
    end = now + seconds
    while now < end and (turn := levels.first(now)):
        levels.charge(turn, work, now)
        given[turn] += work  # type: ignore[assignment]
        now += work
    return given


def test_a_higher_priority_overtakes_at_once() -> None:
    levels, low, high = Levels(), Turn(5, ANN), Turn(9, BOB)
    levels.add(low, (), 0.0)
    run_for(levels, 100)
    levels.add(high, (), 100.0)
    assert run_for(levels, AGE - 1, now=100.0) == {high: AGE - 1}
    levels.remove(high)
    assert levels.first(200.0) == low


def test_nothing_starves_in_a_simulated_day() -> None:
    levels = Levels()
    turns = [Turn(priority, ("a", f"user {priority}", "1")) for priority in range(10)]
    for turn in turns:
        levels.add(turn, (), 0.0)
    last: dict[Turn, float] = dict.fromkeys(turns, 0.0)
    longest: Counter[Turn] = Counter()
    now, given = 0.0, Counter[Turn]()
    while now < 86_400:
        turn = levels.first(now)
        assert turn is not None
        longest[turn] = max(longest[turn], now - last[turn])  # type: ignore[call-overload]
        last[turn] = now
        levels.charge(turn, 0.5, now)
        given[turn] += 0.5  # type: ignore[assignment]
        now += 0.5
    assert max(longest.values()) < 2 * AGE, longest
    assert given[turns[9]] > 0.7 * 86_400
    assert all(given[turn] > OWED * given[turns[9]] * 0.9 for turn in turns), given


def test_what_comes_for_a_moment_is_owed_nothing_from_before() -> None:
    levels, low, high = Levels(), Turn(0, ANN), Turn(9, BOB)
    levels.add(high, (), 0.0)
    run_for(levels, 1000)
    levels.add(low, (), 1000.0)
    assert run_for(levels, AGE - 1, now=1000.0) == {high: AGE - 1}
    given = run_for(levels, 1000, now=1000.0 + AGE)
    assert 0.9 * OWED < given[low] / 1000 < 2 * OWED


def test_ten_users_of_weights_1_to_10_get_that_much() -> None:
    share = FairShare()
    paths = {weight: ("a", f"user {weight}", "1") for weight in range(1, 11)}
    for weight, path in paths.items():
        share.add(path, (1.0, float(weight)))
    given: Counter[tuple[str, ...]] = Counter()
    for number in range(11_000):
        path = share.first()
        cost = 0.02 + 0.01 * (number % 5)
        share.charge(path, cost)
        given[path] += cost  # type: ignore[assignment]
    total = sum(given.values())
    for weight, path in paths.items():
        assert 0.9 < given[path] / total / (weight / 55) < 1.1, (weight, given)


def test_weights_of_namespaces_and_runs_and_of_one_that_is_changed() -> None:
    share = FairShare()
    for path, weights in (
        (("a", "ann", "1"), (3.0, 1.0, 1.0)),
        (("b", "ann", "2"), (1.0, 1.0, 4.0)),
        (("b", "ann", "3"), (1.0, 1.0, 1.0)),
    ):
        share.add(path, weights)

    def turns() -> list[int]:
        given: Counter[str] = Counter()
        for _ in range(2000):
            path = share.first()
            share.charge(path, 1.0)
            given[path[2]] += 1
        return [given[run] for run in "123"]

    assert all(abs(got - due) <= 2 for got, due in zip(turns(), [1500, 400, 100], strict=True))
    share.add(("b", "ann", "3"), (1.0, 1.0, 4.0))
    assert all(abs(got - due) <= 8 for got, due in zip(turns(), [1500, 250, 250], strict=True))
