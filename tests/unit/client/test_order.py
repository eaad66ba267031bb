"""Rows in the order of the input."""

from __future__ import annotations

import random

import pytest

from dts.client import order
from dts.client.order import RowOrder
from dts.client.run.ledger_state import Held


def row(line: int) -> Held:
    return line, False, b"%d\n" % line


def test_rows_come_back_in_order_however_they_come() -> None:
    lines = list(range(1, 1001))
    random.Random(1).shuffle(lines)
    rows = RowOrder()
    out = [held[0] for start in range(0, 1000, 7) for held in rows.add(row(line) for line in lines[start : start + 7])]
    assert out == list(range(1, 1001))
    assert rows.take_fresh() == []


def test_what_waits_is_told_once_and_goes_on_where_it_was() -> None:
    rows = RowOrder()
    assert [held[0] for held in rows.add([row(1), row(3), row(4)])] == [1]
    waiting = rows.take_fresh()
    assert [held[0] for held in waiting] == [3, 4]
    assert rows.take_fresh() == []
    resumed = RowOrder(rows.next_line, waiting)
    assert [held[0] for held in resumed.add([row(2)])] == [2, 3, 4]


def test_no_more_waits_than_may_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "MAX_HELD_ROWS", 2)
    rows = RowOrder()
    rows.add([row(2), row(3)])
    assert rows.full
    rows.add([row(1)])
    assert not rows.full
