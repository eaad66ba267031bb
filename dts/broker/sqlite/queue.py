"""What the SQLite broker does to its tables. Each function is one step of a transaction of `DatabaseThread`.

`woken` gets the names of queues that have messages to hand out by it, for the consumers that wait for them.

A message that nobody has is one without an owner. A claim gives it an owner (a process), a number that only this claim
has, and a lease; whatever is done with it later names them, so that a claim that was lost meanwhile changes nothing.
Leases are in seconds of the clock that all processes of a machine share since it was started (CLOCK_MONOTONIC): a
changed date expires nothing, and after a restart of the machine all owners are dead anyway.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dts.broker.abc import HEADER_QUEUE, HEADER_REASON, REASON_DELIVERY_LIMIT, Message
from dts.errors import ConfigError
from dts.wire.queues import BOUNDED, DEAD

log = logging.getLogger(__name__)

Woken = set[str]

SCHEMA_VERSION = 1

# Bodies are in a table of their own, since SQLite rewrites a whole row to change a part of it.
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS message (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    queue  TEXT NOT NULL,
    count  INTEGER NOT NULL DEFAULT 0,
    owner  TEXT,
    claim  INTEGER,
    lease  REAL,
    origin TEXT,
    reason TEXT
);
CREATE TABLE IF NOT EXISTS content (
    id       INTEGER PRIMARY KEY,
    encoding TEXT NOT NULL,
    headers  TEXT NOT NULL,
    body     BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS message_ready ON message (queue, id) WHERE owner IS NULL;
CREATE INDEX IF NOT EXISTS message_taken ON message (owner, claim, lease) WHERE owner IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS message_gone AFTER DELETE ON message BEGIN
    DELETE FROM content WHERE id = old.id;
END;
PRAGMA user_version = {SCHEMA_VERSION};
"""

_GIVE_BACK = """
UPDATE message SET
    owner = NULL, claim = NULL, lease = NULL,
    queue  = CASE WHEN count >= :limit AND queue <> :dead THEN :dead ELSE queue END,
    origin = CASE WHEN count >= :limit AND queue <> :dead THEN queue ELSE origin END,
    reason = CASE WHEN count >= :limit AND queue <> :dead THEN :reason ELSE reason END,
    count  = CASE WHEN count >= :limit AND queue <> :dead THEN 0 ELSE count END
"""

_CLAIMED = "id = :id AND owner = :owner AND claim = :claim"


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that an owner took."""

    id: int
    number: int
    owner: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A message as it was claimed. `count` includes this hand-over."""

    id: int
    count: int
    message: Message


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables.

    Raises:
        ConfigError: the file was written by a newer release, or by something else.
    """
    db.execute("PRAGMA journal_mode = WAL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    _check_tables(db, version)
    if version == SCHEMA_VERSION:
        return
    if version:
        raise ConfigError(f"it has format {version}, and this release reads {SCHEMA_VERSION}")
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(_SCHEMA):
            db.execute(statement)
    except BaseException:
        db.rollback()
        raise
    db.commit()


def _check_tables(db: sqlite3.Connection, version: int) -> None:
    """Make sure that a file is a broker's, or empty: others, such as a store's, have versions of their own."""
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if (there or version) and not {"message", "content"} <= there:
        raise ConfigError("it is a database of another program, or of a store: choose another file in the broker's URL")


def publish(db: sqlite3.Connection, woken: Woken, queue: str, messages: Sequence[Message]) -> None:
    """Append messages to a queue."""
    first = _next_id(db)
    db.executemany(
        "INSERT INTO message (id, queue) VALUES (?, ?)",
        ((number, queue) for number in range(first, first + len(messages))),
    )
    db.executemany(
        "INSERT INTO content (id, encoding, headers, body) VALUES (?, ?, ?, ?)",
        (
            (number, message.content_encoding, json.dumps(dict(message.headers)), message.body)
            for number, message in enumerate(messages, first)
        ),
    )
    if queue in BOUNDED:
        _drop_oldest(db, queue, BOUNDED[queue])
    woken.add(queue)


def _drop_oldest(db: sqlite3.Connection, queue: str, keep: int) -> None:
    """Drop what nobody has of a queue, the oldest first, until it holds `keep` messages."""
    ready = "queue = :queue AND owner IS NULL"
    db.execute(
        f"""DELETE FROM message WHERE {ready} AND id <=
            (SELECT id FROM message WHERE {ready} ORDER BY id DESC LIMIT 1 OFFSET :keep)""",
        {"queue": queue, "keep": keep},
    )


def has_ready(db: sqlite3.Connection, queue: str) -> bool:
    """Whether a queue has a message that nobody has."""
    found = db.execute("SELECT 1 FROM message WHERE queue = ? AND owner IS NULL LIMIT 1", (queue,))
    return found.fetchone() is not None


def claim(db: sqlite3.Connection, *, queue: str, owner: str, number: int, seconds: float, most: int) -> list[Taken]:
    """Take up to `most` messages of a queue, the oldest first."""
    # RETURNING is in no order, and a join with it is not allowed.
    db.execute(
        """UPDATE message SET owner = ?, claim = ?, lease = ?, count = count + 1 WHERE id IN
           (SELECT id FROM message WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT ?)""",
        (owner, number, time.monotonic() + seconds, queue, most),
    )
    rows = db.execute(
        """SELECT message.id, count, origin, reason, encoding, headers, body
           FROM message JOIN content ON content.id = message.id
           WHERE owner = ? AND claim = ? ORDER BY message.id""",
        (owner, number),
    )
    return [
        Taken(number, count, Message(_bytes(body), str(encoding), _headers(headers, origin, reason)))
        for number, count, origin, reason, encoding, headers, body in rows
    ]


def ack(db: sqlite3.Connection, claims: Iterable[Claim]) -> None:
    """Remove messages whose claims still hold."""
    db.executemany(f"DELETE FROM message WHERE {_CLAIMED}", map(_parameters, claims))


def give_back(
    db: sqlite3.Connection, woken: Woken, claims: Iterable[Claim], unseen: Iterable[Claim], limit: int
) -> None:
    """Give messages back; those that were handed out `limit` times are dead. `unseen` ones were not handed out."""
    db.executemany(f"UPDATE message SET count = count - 1 WHERE {_CLAIMED}", map(_parameters, unseen))
    for one in (*claims, *unseen):
        _give_back(db, woken, _CLAIMED, limit, **_parameters(one))


def reject(db: sqlite3.Connection, woken: Woken, claims: Iterable[Claim], reason: str) -> None:
    """Move messages to the end of the dead-letter queue; those that are there already keep their origin."""
    for one in claims:
        row = db.execute(f"SELECT queue, origin FROM message WHERE {_CLAIMED}", _parameters(one)).fetchone()
        if row is None:
            continue
        queue, origin = row
        new = _next_id(db)
        db.execute(
            "INSERT INTO message (id, queue, origin, reason) VALUES (?, ?, ?, ?)",
            (new, DEAD, origin if queue == DEAD else queue, reason),
        )
        db.execute("INSERT INTO content SELECT ?, encoding, headers, body FROM content WHERE id = ?", (new, one.id))
        db.execute("DELETE FROM message WHERE id = ?", (one.id,))
        woken.add(DEAD)


def extend(db: sqlite3.Connection, owner: str, seconds: float) -> set[int]:
    """Renew the leases of an owner; returns the ids of the messages that it still has."""
    rows = db.execute("UPDATE message SET lease = ? WHERE owner = ? RETURNING id", (time.monotonic() + seconds, owner))
    return {row[0] for row in rows}


def has_any(db: sqlite3.Connection, owner: str) -> bool:
    """Whether an owner has messages."""
    found = db.execute("SELECT 1 FROM message WHERE owner = ? LIMIT 1", (owner,))
    return found.fetchone() is not None


def has_expired(db: sqlite3.Connection) -> bool:
    """Whether a lease has expired."""
    found = db.execute("SELECT 1 FROM message WHERE owner IS NOT NULL AND lease < ? LIMIT 1", (time.monotonic(),))
    return found.fetchone() is not None


def expire(db: sqlite3.Connection, woken: Woken, dead: Iterable[str], limit: int) -> None:
    """Give back the messages of expired leases and of owners that are dead."""
    _give_back(db, woken, "owner IS NOT NULL AND lease < :now", limit, now=time.monotonic())
    for owner in dead:
        _give_back(db, woken, "owner = :owner", limit, owner=owner)


def count(db: sqlite3.Connection, queue: str) -> tuple[int, int]:
    """How many messages of a queue nobody has, and how many somebody has; as of one moment."""
    ready, held = "queue = :queue AND owner IS NULL", "queue = :queue AND owner IS NOT NULL"
    select = f"SELECT (SELECT count(*) FROM message WHERE {ready}), (SELECT count(*) FROM message WHERE {held})"
    found = db.execute(select, {"queue": queue}).fetchone()
    return int(found[0]), int(found[1])


def check(db: sqlite3.Connection) -> None:
    """Make sure that the tables can be read."""
    db.execute("SELECT 1 FROM message LIMIT 1").fetchone()


def _give_back(db: sqlite3.Connection, woken: Woken, where: str, limit: int, **values: object) -> None:
    parameters = {"limit": limit, "dead": DEAD, "reason": REASON_DELIVERY_LIMIT, **values}
    rows = db.execute(f"{_GIVE_BACK} WHERE {where} RETURNING queue", parameters)
    woken.update(row[0] for row in rows)


def _parameters(one: Claim) -> dict[str, object]:
    return {"id": one.id, "owner": one.owner, "claim": one.number}


def _next_id(db: sqlite3.Connection) -> int:
    """An id that was never used, as SQLite's own counter has it; settling a claim must not hit a later message."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'message'").fetchone()
    return int(row[0]) + 1 if row else 1


def _bytes(body: object) -> bytes:
    """A body, also where another program has written something else: it must not hold up what is behind it."""
    return body if isinstance(body, bytes) else str(body).encode()


def _headers(text: object, origin: str | None, reason: str | None) -> dict[str, str | int]:
    """Headers; what cannot be read is left out, so that its reader makes the message a dead letter."""
    try:
        found = json.loads(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        log.warning("the headers of a message cannot be read, and are left out")
        found = {}
    headers: dict[str, str | int] = found if isinstance(found, dict) else {}
    if origin is not None:
        headers |= {HEADER_QUEUE: origin, HEADER_REASON: reason or ""}
    return headers


def _statements(script: str) -> Iterable[str]:
    """The statements of a script one by one, since executescript would commit the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
