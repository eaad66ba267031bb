"""Documents of a MongoDB store from and to the model's records, and nothing else.

An outcome's document has more than the record: `number`, `created`, `published`, `due` (present while the block waits
to be published), `sent`, `single`, `priority` and `weight` for its turns, `lease`, `claimant` and `mark` for claims,
`held` (see `holds`), `open` while jobs have not ended; `at_work` and `uncollected` count jobs, for statistics from an
index; `collected` and `closed` say what clients have, and `collects` and `collectors` guard their changes; `taken` is
the bitmap of jobs that were collected one by one, absent before the first. `batches` has the parts, see `parts`; it is
last, because MongoDB reads a document from its start.

A run's document has `cancel_time` once it was cancelled, and `swept` once its jobs have ended thereafter. One that an
earlier version cancelled has neither. It has `unfinished` until it has finished, then `finished` (when) and `ended`
(how many jobs succeeded, failed, were cancelled), and `follow_up` as long as that is true.
"""

from __future__ import annotations

from typing import Any

from dts.model import Block, DeadLetter, Finished, Outcome, Run, RunState, bitmap
from dts.store.contract.shared import headers_from_text, headers_to_text, storable

Document = dict[str, Any]

LOOSE: Document = {"loose": {"user": True, "run": True}}
"""The fields of an outcome that a write sets which changes how many of its jobs are in which state, see `tallies`."""

GUARDED = {
    field: 1
    for field in (
        "run",
        "first",
        "user",
        "function",
        "count",
        "ended",
        "running",
        "succeeded",
        "failed",
        "cancelled",
        "n_parts",
    )
}
"""The projection of an outcome's document that `outcome_from` needs."""


def run_document(run: Run) -> Document:
    """The document of a run."""
    ended = run.finished
    end = {"finished": ended.time, "ended": [ended.succeeded, ended.failed, ended.cancelled]} if ended else None
    return {
        "_id": run.id,
        "user": run.user,
        "function": run.function,
        "block_size": run.block_size,
        "state": run.state.value,
        "paused": run.paused,
        "created": run.created,
        "not_before": run.not_before,
        "options": run.options,
        "single": run.single,
        "priority": run.priority,
        "weight": run.weight,
        **(end or {"unfinished": True}),
        **({"follow_up": True} if run.follow_up else {}),
    }


def run_from(document: Document) -> Run:
    """The run of a document; `cancel_time`, `swept` and `unfinished` are not the record's."""
    for kept in ("cancel_time", "swept", "unfinished"):
        document.pop(kept, None)
    ended = document.pop("ended", ())
    finished = Finished(document.pop("finished"), *ended) if "finished" in document else None
    return Run(id=document.pop("_id"), state=RunState(document.pop("state")), finished=finished, **document)


def block_document(block: Block) -> Document:
    """The document of a block but for its body and for what becomes of it."""
    return {
        "_id": block.id,
        "run": block.run,
        "number": block.number,
        "first": block.first,
        "user": block.user,
        "function": block.function,
        "count": block.count,
        "content_encoding": block.content_encoding,
        "digest": block.digest,
        "created": block.created,
        "not_before": block.not_before,
        "deadline": block.deadline,
        "single": block.single,
    }


def block_from(document: Document, body: bytes, outcome: Document) -> Block:
    """The block of a document, with what is kept apart from it: its body, and how far it is published."""
    return Block(
        id=document["_id"],
        run=document["run"],
        number=document["number"],
        first=document["first"],
        user=document["user"],
        function=document["function"],
        count=document["count"],
        body=body,
        content_encoding=document["content_encoding"],
        digest=document["digest"],
        created=document["created"],
        published=outcome["published"],
        sent=outcome.get("sent", 0),
        not_before=document["not_before"],
        deadline=document["deadline"],
        single=document.get("single", False),
        priority=outcome.get("priority"),
        weight=outcome.get("weight", 1.0),
    )


def empty_outcome_document(block: Block) -> Document:
    """The document of the outcome of a block that is new."""
    document: Document = {
        "_id": block.id,
        "run": block.run,
        "number": block.number,
        "first": block.first,
        "user": block.user,
        "function": block.function,
        "count": block.count,
        "created": block.created,
        "published": block.published,
        "not_before": block.not_before,
        "open": True,
        "lease": 0.0,
        **LOOSE,
        "ended": b"",
        "running": b"",
        "succeeded": 0,
        "failed": 0,
        "cancelled": 0,
        "at_work": 0,
        "n_parts": 0,
        "uncollected": 0,
        "collected": b"",
        "closed": [],
        "collects": 0,
        "collectors": [],
        "batches": [],
    }
    if not block.published:
        document["due"] = max(block.created, block.not_before)
        document |= {"priority": block.priority, "weight": block.weight}
        if block.single:
            document["single"] = True
    if block.deadline:
        document["deadline"] = block.deadline
    return document


def outcome_from(document: Document) -> Outcome:
    """The outcome of a document."""
    return Outcome(
        block=document["_id"],
        run=document["run"],
        first=document["first"],
        user=document["user"],
        function=document["function"],
        count=document["count"],
        ended=bitmap.from_bytes(document["ended"]),
        running=bitmap.from_bytes(document["running"]),
        succeeded=document["succeeded"],
        failed=document["failed"],
        cancelled=document["cancelled"],
        parts=document["n_parts"],
    )


def outcome_changes(outcome: Outcome) -> Document:
    """The fields of an outcome's document that a merge changes."""
    return {
        "ended": bitmap.to_bytes(outcome.ended, outcome.count),
        "running": bitmap.to_bytes(outcome.running, outcome.count),
        "succeeded": outcome.succeeded,
        "failed": outcome.failed,
        "cancelled": outcome.cancelled,
        "at_work": outcome.running.bit_count(),
        "n_parts": outcome.parts,
        **LOOSE,
    }


def dead_letter_document(letter: DeadLetter) -> Document:
    """The document of a dead letter but for its body."""
    return {
        "_id": letter.id,
        "queue": storable(letter.queue),
        "reason": storable(letter.reason),
        "content_encoding": storable(letter.content_encoding),
        "headers": headers_to_text(letter.headers),
        "run": storable(str(letter.headers.get("run", ""))),
        "died": letter.died,
    }


def dead_letter_from(document: Document, body: bytes) -> DeadLetter:
    """The dead letter of a document."""
    return DeadLetter(
        id=document["_id"],
        queue=document["queue"],
        reason=document["reason"],
        body=body,
        content_encoding=document["content_encoding"],
        headers=headers_from_text(document["headers"]),
        died=document["died"],
    )
