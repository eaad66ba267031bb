"""Rows, byte by byte."""

from __future__ import annotations

import msgspec
import pytest

from dts.client.rows import FIELDS, Results, RowFormat, bad_lines, pieces
from dts.client.run.blocks import CutBlock, SentBlock
from dts.errors import InvalidInput
from dts.wire import dts_pb2

RUN = "0" * 26


def sent(lines: list[int], *, number: int = 3) -> SentBlock:
    args = [b'["%d"]' % line for line in lines]
    return CutBlock(args, [b"", b'{"k":1}'] * (len(lines) // 2), lines, 0).to_sent(number, 2048, keep=True)


def results(block: SentBlock, *each: dts_pb2.Result) -> Results:
    batch = dts_pb2.ResultBatch(worker='w"1', version="v1", started=1700000000.25, results=each)
    return Results.split(RUN, block, batch, batch.results)


OK = dts_pb2.Result(index=0, status=dts_pb2.SUCCEEDED, value=b'{"raw":  [1.50]}', duration=0.0004, offset=0.5)
FAILED = dts_pb2.Result(
    index=1,
    status=dts_pb2.FAILED,
    error=dts_pb2.Error(type="ValueError", message='"ü"\n', traceback="at line 1"),
    duration=12.5,
    attempt=3,
)
CANCELLED = dts_pb2.Result(index=1, status=dts_pb2.CANCELLED, error=dts_pb2.Error(type="C", reason="cancelled"))


def test_a_row_passes_the_result_through() -> None:
    rows = RowFormat().format(results(sent([17, 18]), OK))
    assert rows.succeeded == b'{"line": 17, "success": true, "result": {"raw":  [1.50]}, "duration": 0.000400}\n'
    assert rows.failed == b""


def test_a_row_of_a_failure_says_why() -> None:
    rows = RowFormat().format(results(sent([17, 18]), FAILED))
    assert rows.failed.decode() == (
        '{"line": 18, "success": false, "error": {"type": "ValueError", "message": "\\"ü\\"\\n", '
        '"traceback": "at line 1"}, "duration": 12.500000}\n'
    )


def test_a_reason_is_there_when_dts_itself_ended_the_job() -> None:
    row = msgspec.json.decode(RowFormat().format(results(sent([1, 2]), CANCELLED)).failed)
    assert row["error"] == {"type": "C", "message": "", "traceback": "", "reason": "cancelled"}


@pytest.mark.parametrize("lines", [[17, 18], [17, 20]])
def test_lines_are_those_of_the_input(lines: list[int]) -> None:
    rows = RowFormat().format(results(sent(lines), OK, FAILED))
    assert [msgspec.json.decode(row)["line"] for row in (rows.succeeded, rows.failed)] == lines


def test_all_fields() -> None:
    rows = RowFormat(FIELDS).format(results(sent([17, 18]), OK, FAILED))
    first, second = msgspec.json.decode(rows.succeeded), msgspec.json.decode(rows.failed)
    assert list(first) == ["line", "success", "result", "duration", *FIELDS]
    assert {name: first[name] for name in FIELDS} == {
        "id": f"{RUN}-{3 * 2048}",
        "args": ["17"],
        "kwargs": {},
        "attempt": 1,
        "worker": 'w"1',
        "version": "v1",
        "started": 1700000000.75,
    }
    assert (second["id"], second["kwargs"], second["attempt"]) == (f"{RUN}-{3 * 2048 + 1}", {"k": 1}, 3)


def test_a_value_over_several_lines_is_still_one_row() -> None:
    spread = dts_pb2.Result(index=0, status=dts_pb2.SUCCEEDED, value=b'{\n "a": 1\n}')
    missing = dts_pb2.Result(index=1, status=dts_pb2.SUCCEEDED)
    rows = RowFormat().format(results(sent([1, 2]), spread, missing)).succeeded.splitlines()
    assert [msgspec.json.decode(row)["result"] for row in rows] == [{"a": 1}, None]


def test_bad_lines_are_failed_rows_without_a_job() -> None:
    rows = RowFormat(["id"]).format(bad_lines(RUN, [(5, "too long"), (9, "not UTF-8")])).failed
    assert rows.splitlines()[1] == (
        b'{"line": 9, "success": false, "error": {"type": "ComponentError", "message": "not UTF-8", "traceback": ""}, '
        b'"duration": 0.000000, "id": null}'
    )


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InvalidInput, match="there is no field 'nope': choose from id, args, kwargs"):
        RowFormat(["id", "nope"])


def test_large_results_are_cut_into_pieces() -> None:
    block = sent(list(range(1, 11)))
    each = [
        dts_pb2.Result(index=n, status=dts_pb2.FAILED if n == 3 else dts_pb2.SUCCEEDED, value=b"1" * 100)
        for n in range(10)
    ]
    batch = dts_pb2.ResultBatch(results=each)
    whole = Results.split(RUN, block, batch, batch.results, size=1000)
    cut = list(pieces([whole], 250))
    assert [len(piece.succeeded) + len(piece.failed) for piece in cut] == [3, 3, 3, 1]
    assert b"".join(RowFormat().format(piece).succeeded for piece in cut) == RowFormat().format(whole).succeeded
    assert [result.index for piece in cut for result in piece.failed] == [3]
    assert list(pieces([whole], 1000)) == [whole]
