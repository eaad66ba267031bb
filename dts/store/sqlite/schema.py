"""The tables of a SQLite store, and opening its files.

A block's row holds what changes of it, its outcome, with four bitmaps: jobs that ended, jobs that run, parts that are
collected, and jobs that were collected one by one (`taken`); `held` says that its run is paused or cancelled, so that
no look for work meets it. The row is small, so that writing it back is cheap. What never changes and may be large is
apart: the block's body in `bodies`, each part of the outcome in a row of `parts`, with its body last, where SQLite can
leave it unread.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from dts.embedded.errors import open_connection, when_unlocked
from dts.errors import ConfigError
from dts.store.sqlite.counts import COUNT_WHAT_IS_THERE
from dts.store.sqlite.finishing import FINISH_WHAT_IS_THERE

SCHEMA_VERSION = 17
"""What `PRAGMA user_version` says of a file with these tables."""

_UPGRADES = {
    1: {
        "delayed": """
            ALTER TABLE delayed ADD COLUMN gated INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE delayed ADD COLUMN released BLOB NOT NULL DEFAULT x'';
            DROP INDEX IF EXISTS delayed_due;
            DROP INDEX IF EXISTS delayed_by_block
        """,
    },
    2: {
        "runs": "ALTER TABLE runs ADD COLUMN single INTEGER NOT NULL DEFAULT 0",
        "blocks": "ALTER TABLE blocks ADD COLUMN taken BLOB NOT NULL DEFAULT x''",
    },
    3: {"finished_runs": "DROP TABLE finished_runs"},
    4: {
        "runs": """
            ALTER TABLE runs ADD COLUMN cancel_time REAL NOT NULL DEFAULT 0;
            ALTER TABLE runs ADD COLUMN swept INTEGER NOT NULL DEFAULT 0;
            DROP INDEX IF EXISTS runs_cancelled
        """,
    },
    5: {
        "delayed": """
            ALTER TABLE delayed ADD COLUMN made_offset INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE delayed ADD COLUMN made BLOB NOT NULL DEFAULT x'';
            UPDATE delayed SET made = jobs WHERE fired IS NULL
        """,
    },
    6: {
        "blocks": """
            ALTER TABLE blocks ADD COLUMN claimant TEXT NOT NULL DEFAULT '';
            ALTER TABLE blocks ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
            UPDATE blocks SET held = 1 WHERE count > succeeded + failed + cancelled
                AND run IN (SELECT id FROM runs WHERE paused OR state = 'cancelled');
            DROP INDEX IF EXISTS blocks_unpublished;
            DROP INDEX IF EXISTS blocks_published
        """,
        "delayed": """
            ALTER TABLE delayed ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
            UPDATE delayed SET held = 1 WHERE fired IS NULL AND run IN (SELECT id FROM runs WHERE paused);
            DROP INDEX IF EXISTS delayed_free;
            DROP INDEX IF EXISTS delayed_gated
        """,
    },
    7: {},
    8: {
        "blocks": f"""
            {COUNT_WHAT_IS_THERE};
            DROP INDEX IF EXISTS blocks_by_run;
            DROP INDEX IF EXISTS blocks_by_user
        """,
    },
    9: {"blocks": "ALTER TABLE blocks ADD COLUMN sent INTEGER NOT NULL DEFAULT 0"},
    10: {},
    11: {
        "runs": """
            ALTER TABLE runs ADD COLUMN priority INTEGER;
            ALTER TABLE runs ADD COLUMN weight REAL NOT NULL DEFAULT 1
        """,
        "blocks": """
            ALTER TABLE blocks ADD COLUMN single INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE blocks ADD COLUMN priority INTEGER;
            ALTER TABLE blocks ADD COLUMN weight REAL NOT NULL DEFAULT 1
        """,
    },
    12: {},
    13: {},
    14: {
        "runs": f"""
            ALTER TABLE runs ADD COLUMN finished REAL NOT NULL DEFAULT 0;
            ALTER TABLE runs ADD COLUMN succeeded INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE runs ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE runs ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE runs ADD COLUMN follow_up INTEGER NOT NULL DEFAULT 0;
            {FINISH_WHAT_IS_THERE};
            DROP INDEX IF EXISTS runs_by_function
        """,
        "run_notes": "DROP TABLE run_notes",
    },
    15: {"alerts": "DROP TABLE alerts"},
    16: {},
}
"""What to do with a table of a version to make it one of the next; missing tables and indexes are made after that."""

_NAMED = re.compile(r"CREATE (?:TABLE|INDEX|TRIGGER) (\w+)")

TABLES = """
CREATE TABLE users (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE namespaces (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE functions (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE vhosts (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE routes (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE schedules (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE alert_rules (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE secrets (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE silences (id TEXT PRIMARY KEY, version INTEGER NOT NULL, data TEXT NOT NULL) STRICT;

CREATE TABLE operations (
    seq INTEGER PRIMARY KEY, timestamp REAL NOT NULL, operator TEXT NOT NULL, address TEXT NOT NULL,
    op_type TEXT NOT NULL, doc_id TEXT NOT NULL, ops TEXT NOT NULL, outcome TEXT NOT NULL, begun INTEGER,
    previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE INDEX operations_by_document ON operations (doc_id, seq);
CREATE INDEX operations_by_type ON operations (op_type, seq);
CREATE INDEX operations_by_operator ON operations (operator, seq);
CREATE TABLE operations_head (one INTEGER PRIMARY KEY, seq INTEGER NOT NULL, hash TEXT NOT NULL) STRICT;

CREATE TABLE runs (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, function TEXT NOT NULL, block_size INTEGER NOT NULL,
    state TEXT NOT NULL, paused INTEGER NOT NULL, created REAL NOT NULL, not_before REAL NOT NULL,
    options BLOB NOT NULL, single INTEGER NOT NULL DEFAULT 0,
    cancel_time REAL NOT NULL DEFAULT 0, swept INTEGER NOT NULL DEFAULT 0,
    priority INTEGER, weight REAL NOT NULL DEFAULT 1,
    finished REAL NOT NULL DEFAULT 0, succeeded INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0, follow_up INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_by_user ON runs (user, id);
CREATE INDEX runs_of_files ON runs (id) WHERE NOT single;
CREATE INDEX runs_of_files_by_user ON runs (user, id) WHERE NOT single;
CREATE INDEX runs_by_cancelling ON runs (max(cancel_time, created)) WHERE state = 'cancelled';
CREATE INDEX runs_unswept ON runs (id) WHERE state = 'cancelled' AND NOT swept;

CREATE TABLE blocks (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, run TEXT NOT NULL, number INTEGER NOT NULL,
    first INTEGER NOT NULL, user TEXT NOT NULL, function TEXT NOT NULL, count INTEGER NOT NULL,
    digest BLOB NOT NULL, content_encoding TEXT NOT NULL, created REAL NOT NULL,
    published INTEGER NOT NULL, not_before REAL NOT NULL, due REAL NOT NULL, deadline REAL NOT NULL,
    leased_until REAL NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0,
    at_work INTEGER NOT NULL DEFAULT 0, uncollected INTEGER NOT NULL DEFAULT 0, parts INTEGER NOT NULL DEFAULT 0,
    ended BLOB NOT NULL DEFAULT x'', running BLOB NOT NULL DEFAULT x'', collected BLOB NOT NULL DEFAULT x'',
    taken BLOB NOT NULL DEFAULT x'', claimant TEXT NOT NULL DEFAULT '', held INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0, single INTEGER NOT NULL DEFAULT 0,
    priority INTEGER, weight REAL NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX blocks_by_run ON blocks (run, number);
CREATE INDEX blocks_unpublished ON blocks (held, due, number)
    WHERE NOT published AND count > succeeded + failed + cancelled;
CREATE INDEX blocks_unpublished_of_run ON blocks (run, number)
    WHERE NOT published AND count > succeeded + failed + cancelled;
CREATE INDEX blocks_unpublished_single ON blocks (user, function, priority, due)
    WHERE NOT published AND count > succeeded + failed + cancelled AND single;
CREATE INDEX blocks_unfinished ON blocks (function, user) WHERE count > succeeded + failed + cancelled;
CREATE INDEX blocks_unfinished_of_run ON blocks (run, id) WHERE count > succeeded + failed + cancelled;
CREATE INDEX blocks_unfinished_of_function ON blocks (function, id) WHERE count > succeeded + failed + cancelled;
CREATE INDEX blocks_unfinished_of_user ON blocks (user, id) WHERE count > succeeded + failed + cancelled;
CREATE INDEX blocks_published ON blocks (function, held, id) WHERE count > succeeded + failed + cancelled AND published;
CREATE INDEX blocks_overdue ON blocks (deadline)
    WHERE deadline > 0 AND count > succeeded + failed + cancelled;
CREATE INDEX blocks_uncollected ON blocks (user, run, number) WHERE uncollected > 0;
CREATE INDEX blocks_uncollected_by_run ON blocks (run, number) WHERE uncollected > 0;

CREATE TABLE bodies (block INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE parts (
    block INTEGER NOT NULL, number INTEGER NOT NULL, count INTEGER NOT NULL, size INTEGER NOT NULL,
    jobs_offset INTEGER NOT NULL, jobs BLOB NOT NULL, content_encoding TEXT NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX parts_by_block ON parts (block, number, count, size);

CREATE TABLE requests (
    user TEXT NOT NULL, key TEXT NOT NULL, run TEXT NOT NULL, digest BLOB NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (user, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_by_time ON requests (created);

CREATE TABLE seeded (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    id TEXT PRIMARY KEY, queue TEXT NOT NULL, reason TEXT NOT NULL, content_encoding TEXT NOT NULL,
    headers TEXT NOT NULL, died REAL NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX dead_letters_by_time ON dead_letters (died);
CREATE INDEX dead_letters_by_run ON dead_letters (json_extract(headers, '$.run'));
"""

NONCES = """
CREATE TABLE nonces (
    user TEXT NOT NULL, nonce TEXT NOT NULL, expires REAL NOT NULL, PRIMARY KEY (user, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX nonces_by_expiry ON nonces (expires);
"""

_PAGES_IN_LOG = 4000  # 16 MB: a page that is written often is copied from the log to the file once for many writes
_CACHE = 32 * 1024  # KiB a connection
_STATEMENTS = 256


def open_database(path: Path, tables: str) -> sqlite3.Connection:
    """Open a file for reading and writing; create it, its folder and its tables if they are missing.

    Raises:
        ConfigError: it is of another program or of a later version of DTS.
        OSError: it cannot be made.
        sqlite3.Error: it is no database, is locked, or its disk is full.
    """
    _create_file(path)
    db = connect(path)
    try:
        when_unlocked(lambda: db.execute("PRAGMA journal_mode = WAL"))
        when_unlocked(lambda: db.execute("BEGIN IMMEDIATE"))
        _create_tables(db, path, tables)
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there. Raises sqlite3.Error."""
    return open_connection(path, cache=_CACHE, pages_in_log=_PAGES_IN_LOG, statements=_STATEMENTS)


def _create_file(path: Path) -> None:
    for folder in reversed([parent for parent in path.parents if not parent.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _create_tables(db: sqlite3.Connection, path: Path, tables: str) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"the store's file {path} has schema version {version} and this DTS knows {SCHEMA_VERSION}: "
            "it was written by a later version; install that one, or choose another file"
        )
    there, ours = _names(db), re.findall(r"CREATE TABLE (\w+)", tables)
    expected = set(ours if version == SCHEMA_VERSION else ours[: min(version, 1)])
    if not expected <= there or (there and not version):
        raise _foreign(path)  # such as the file of a broker, which has versions of its own
    for step in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
        for table in there & _UPGRADES[step].keys():
            for change in _UPGRADES[step][table].split(";"):
                db.execute(change)
    there = _names(db)
    for statement in _statements(tables):
        if (named := _NAMED.search(statement)) and named[1] not in there:
            db.execute(statement)
    if version != SCHEMA_VERSION:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _names(db: sqlite3.Connection) -> set[str]:
    """The tables, indexes and triggers that there are."""
    return {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}


def _statements(text: str) -> Iterator[str]:
    """The statements in SQL; those inside a trigger are part of it."""
    begun = ""
    for piece in text.split(";"):
        begun += piece + ";"
        if sqlite3.complete_statement(begun):
            yield begun
            begun = ""


def _foreign(path: Path) -> ConfigError:
    return ConfigError(
        f"the file {path} is a database of another program, or of a broker: choose another one in the store's URL"
    )
