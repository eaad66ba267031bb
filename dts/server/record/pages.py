"""Parts of results as a client reads them: as they are stored, or as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dts.model import Part, Run, bitmap, job_id
from dts.server.record.results import part_results, result_fields
from dts.wire import dts_pb2


def result_page(parts: list[Part], run: Run) -> bytes:
    """Parts as they are stored, for a client that reads protobuf."""
    page = dts_pb2.ResultPage()
    for part in parts:
        number, _, _ = part.receipt.partition(".")
        page.parts.add(
            receipt=part.receipt,
            block=int(number),
            jobs=bitmap.to_bytes(part.jobs, run.block_size).rstrip(b"\0"),
            body=part.body,
            content_encoding=part.content_encoding,
        )
    return page.SerializeToString()


def result_rows(part: Part, run: Run, lines: Sequence[int] | None) -> bytes:
    """One line of JSON a result, for a client that reads NDJSON; with the `line` of each if that is known."""
    first = int(part.receipt.partition(".")[0]) * run.block_size
    rows = []
    for batch, result in part_results(part):
        number = first + result.index
        line = {} if lines is None else {"line": lines[result.index]}
        about = {"id": job_id(run.id, number), "job": number, "receipt": part.receipt}
        rows.append({**line, **about, **result_fields(batch, result)})
    return msgspec.json.Encoder().encode_lines(rows)
