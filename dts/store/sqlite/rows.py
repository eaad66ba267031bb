"""Rows of a SQLite store from and to the model's records, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from dts.model import Block, DeadLetter, Finished, Outcome, Part, Run, RunState, bitmap
from dts.store.contract.shared import headers_from_text, headers_to_text, storable

Row = tuple[Any, ...]

RUN = (
    "id, user, function, block_size, state, paused, created, not_before, options, single, priority, weight, "
    "finished, succeeded, failed, cancelled, follow_up"
)
BLOCK = (
    "id, run, number, first, user, function, count, content_encoding, digest, created, published, not_before, "
    "deadline, sent, single, priority, weight"
)
OUTCOME = "id, run, first, user, function, count, ended, running, succeeded, failed, cancelled, parts"
PART = "number, jobs_offset, jobs, content_encoding, body"
DEAD_LETTER = "id, queue, reason, content_encoding, headers, died, body"


AMONG = "IN (SELECT value FROM json_each(?))"
"""Is one of many, given by `listed` as one value: SQLite takes a limited number of values in a statement."""


def listed(values: Iterable[object]) -> str:
    """Values as AMONG takes them; texts as a database can take them."""
    return json.dumps([storable(each) if isinstance(each, str) else each for each in values])


def marks(columns: str) -> str:
    """As many question marks as there are columns."""
    return ", ".join("?" for _ in columns.split(","))


def run_row(run: Run) -> Row:
    """A row of RUN."""
    return (
        run.id,
        run.user,
        run.function,
        run.block_size,
        run.state.value,
        run.paused,
        run.created,
        run.not_before,
        run.options,
        run.single,
        run.priority,
        run.weight,
        *((ended.time, ended.succeeded, ended.failed, ended.cancelled) if (ended := run.finished) else (0.0, 0, 0, 0)),
        run.follow_up,
    )


def run_from(row: Row) -> Run:
    """A run from a row of RUN."""
    run, user, function, size, state, paused, created, not_before, options, single, *turns = row[:12]
    *ended, follow_up = row[12:]
    flags = RunState(state), bool(paused)
    finished = Finished(*ended) if ended[0] else None
    about = (created, not_before, options, bool(single), *turns, finished, bool(follow_up))
    return Run(run, user, function, size, *flags, *about)


def block_row(block: Block) -> Row:
    """A row of BLOCK."""
    return (
        block.id,
        block.run,
        block.number,
        block.first,
        block.user,
        block.function,
        block.count,
        block.content_encoding,
        block.digest,
        block.created,
        block.published,
        block.not_before,
        block.deadline,
        block.sent,
        block.single,
        block.priority,
        block.weight,
    )


def block_from(row: Row, body: bytes) -> Block:
    """A block from a row of BLOCK and its body."""
    run_id, run, number, first, user, function, count, content_encoding, digest, created, *more = row
    published, not_before, deadline, sent, single, priority, weight = more
    return Block(
        run_id,
        run,
        number,
        first,
        user,
        function,
        count,
        body,
        content_encoding,
        digest,
        created,
        bool(published),
        not_before,
        deadline,
        sent,
        bool(single),
        priority,
        weight,
    )


def outcome_from(row: Row) -> Outcome:
    """An outcome from a row of OUTCOME."""
    block, run, first, user, function, count, ended, running, *counts = row
    ended, running = bitmap.from_bytes(ended), bitmap.from_bytes(running)
    return Outcome(block, run, first, user, function, count, ended, running, *counts)


def part_from(block: str, row: Row) -> Part:
    """A part of a block from a row of PART."""
    number, offset, jobs, content_encoding, body = row
    return Part(block, number, bitmap.from_window(offset, jobs), body, content_encoding)


def dead_letter_row(letter: DeadLetter) -> Row:
    """A row of DEAD_LETTER."""
    return (
        letter.id,
        storable(letter.queue),
        storable(letter.reason),
        storable(letter.content_encoding),
        headers_to_text(letter.headers),
        letter.died,
        letter.body,
    )


def dead_letter_from(row: Row) -> DeadLetter:
    """A dead letter from a row of DEAD_LETTER."""
    letter_id, queue, reason, content_encoding, headers, died, body = row
    return DeadLetter(letter_id, queue, reason, body, content_encoding, headers_from_text(headers), died)
