"""Whose fault a failure of a store is: that of what it was given, or its own. Only the first may cost a message."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    CursorNotFound,
    DocumentTooLarge,
    DuplicateKeyError,
    OperationFailure,
    WriteConcernError,
)

from dts.embedded import errors as sqlite_errors
from dts.errors import NotStorable, StoreError, StoreUnavailable
from dts.store.mongo import connection as mongo_connection


def bulk(*faults: tuple[int, str], unconfirmed: bool = False) -> BulkWriteError:
    """What MongoDB says of several writes."""
    errors = [{"index": n, "code": code, "errmsg": text} for n, (code, text) in enumerate(faults)]
    details: dict[str, Any] = {"writeErrors": errors, "writeConcernErrors": [{"code": 100}] if unconfirmed else []}
    return BulkWriteError(details)


@pytest.mark.parametrize(
    "error",
    [
        *[
            OperationFailure("no", code)
            for code in (13, 18, 43, 63, 79, 100, 146, 175, 237, 11600, 11601, 13388, 14031)
        ],
        OperationFailure("no code at all"),
        OperationFailure("a code of a later version", 987654),
        OperationFailure(
            "error processing query: planner returned error :: caused by :: hint provided does not ...", 2
        ),
        CursorNotFound("cursor id 1 not found", 43),
        WriteConcernError("waiting for replication timed out", 64),
        AutoReconnect("connection closed"),
        ConfigurationError("the server speaks another protocol"),
        bulk((13, "not authorized")),
        bulk((121, "Document failed validation"), (11601, "interrupted")),
        bulk((11000, "taken"), unconfirmed=True),
        bulk(),
    ],
    ids=repr,
)
def test_a_mongodb_that_refuses_for_reasons_of_its_own_is_unavailable(error: Any) -> None:
    assert type(mongo_connection.translated(error)) is StoreUnavailable


@pytest.mark.parametrize(
    "error",
    [
        OperationFailure("Document failed validation", 121),
        OperationFailure("Failed to apply $inc operations to current value", 2),
        OperationFailure("Resulting document after update is larger than 16777216", 17419),
        DuplicateKeyError("taken", 11000),
        DocumentTooLarge("BSON document too large"),
        InvalidDocument("cannot encode object"),
        bulk((10334, "too large"), (11000, "taken")),
    ],
    ids=repr,
)
def test_what_mongodb_refuses_for_what_is_in_a_document_is_not_storable(error: Any) -> None:
    assert type(mongo_connection.translated(error)) is NotStorable


async def test_a_store_raises_no_errors_of_the_driver() -> None:
    @mongo_connection.translating
    async def fail(error: Exception) -> None:
        raise error

    for error in (OperationFailure("not authorized", 13), InvalidDocument("no"), DocumentTooLarge("no")):
        with pytest.raises(StoreError) as caught:
            await fail(error)
        assert caught.value.__cause__ is error


def of_sqlite(kind: type[sqlite3.Error], code: int) -> sqlite3.Error:
    """An error as SQLite raises it."""
    error = kind("no")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "visible"),
    [
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_FULL), StoreUnavailable),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_READONLY_DBMOVED), StoreUnavailable),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_PERM), StoreUnavailable),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_SCHEMA), StoreUnavailable),
        (of_sqlite(sqlite3.DatabaseError, sqlite3.SQLITE_AUTH), StoreUnavailable),
        (of_sqlite(sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT), StoreUnavailable),
        (of_sqlite(sqlite3.DatabaseError, sqlite3.SQLITE_NOTADB), StoreUnavailable),
        (of_sqlite(sqlite3.DataError, sqlite3.SQLITE_TOOBIG), NotStorable),
        (of_sqlite(sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_NOTNULL), NotStorable),
        (of_sqlite(sqlite3.IntegrityError, sqlite3.SQLITE_MISMATCH), NotStorable),
        (of_sqlite(sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY), sqlite3.IntegrityError),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_ERROR), sqlite3.OperationalError),
        (OverflowError("Python int too large"), OverflowError),
        (MemoryError(), MemoryError),
    ],
    ids=repr,
)
def test_sqlite_tells_its_file_from_what_it_was_given(error: Exception, visible: type[Exception]) -> None:
    assert type(sqlite_errors.translated(error, "the file", StoreUnavailable)) is visible
