"""The rows of a backup: each is one thing that a store keeps, tagged with what it is, as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from dts.server.ending.retention import KEPT_OPEN
from dts.server.intake.following import FOLLOWING
from dts.server.notify.runs import COLLECTION as RUN_NOTICES
from dts.server.unattended.firing import FIRINGS
from dts.server.unattended.scheduler import SCHEDULES
from dts.server.versions.library import COLLECTION as VERSIONS

FORMAT = 1
"""The version of the format; a server refuses one that it does not know."""

DOCUMENTS = (VERSIONS, SCHEDULES, FIRINGS)
"""Collections of documents that belong to administration."""

OF_RUNS = (FOLLOWING, RUN_NOTICES, KEPT_OPEN)
"""Collections of documents that belong to unfinished work."""

SET_GOING = (SCHEDULES, FOLLOWING)
"""Collections of documents that a timekeeper acts on: they are put back last, when all that they need is there."""


class HeaderRow(msgspec.Struct, tag="header", frozen=True, kw_only=True):
    """The first row. `key_check` tells whether a server has the key file that keys in the backup are sealed with."""

    format: int
    version: str
    created: float
    key_check: str
    runs: bool


class SeededRow(msgspec.Struct, tag="seeded", frozen=True):
    """Names that were put in once and, if they are deleted, are not wanted again."""

    names: list[str]


class RecordRow(msgspec.Struct, tag="record", frozen=True):
    """A record as JSON, of the kind that is kept in that table."""

    table: str
    json: str


class OperationRow(msgspec.Struct, tag="operation", frozen=True):
    """An entry of the operation log with its hash."""

    fields: dict[str, Any]


class DocumentRow(msgspec.Struct, tag="document", frozen=True):
    """A document with its body."""

    collection: str
    id: str
    data: dict[str, Any]
    group: str
    due: float | None
    expires: float | None
    body: bytes


class RunRow(msgspec.Struct, tag="run", frozen=True):
    """A run that has not finished, or that something is still to follow."""

    run: dict[str, Any]


class BlockRow(msgspec.Struct, tag="block", frozen=True):
    """A block of such a run."""

    block: dict[str, Any]


class PartRow(msgspec.Struct, tag="part", frozen=True):
    """Results of a block of such a run."""

    block: str
    function: str
    jobs: bytes
    body: bytes
    content_encoding: str


BackupRow = HeaderRow | SeededRow | RecordRow | OperationRow | DocumentRow | RunRow | BlockRow | PartRow


def encoded(row: BackupRow) -> msgspec.Raw:
    """A row as JSON; bytes are base64."""
    return msgspec.Raw(msgspec.json.encode(row))


def decoded(text: bytes | msgspec.Raw) -> BackupRow:
    """The row that `encoded` was given.

    Raises:
        msgspec.ValidationError: it is none.
    """
    row: BackupRow = msgspec.json.decode(text, type=BackupRow)
    return row
