"""What a SQLite store does with documents."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from sqlite3 import Connection

from dts.embedded.thread import DatabaseThread
from dts.model.documents import Document
from dts.store.abc import Store
from dts.store.contract.documents import data_from_json, data_to_json
from dts.store.contract.shared import storable
from dts.store.sqlite.rows import AMONG, Row, listed

DOCUMENT_TABLES = """
CREATE TABLE documents (
    key INTEGER PRIMARY KEY, collection TEXT NOT NULL, id TEXT NOT NULL, "group" TEXT NOT NULL, due REAL,
    expires REAL, revision INTEGER NOT NULL, data BLOB NOT NULL, body BLOB NOT NULL, UNIQUE (collection, id)
) STRICT;
CREATE INDEX documents_by_group ON documents (collection, "group", id);
CREATE INDEX documents_due ON documents (collection, due) WHERE due IS NOT NULL;
CREATE INDEX documents_expiring ON documents (expires) WHERE expires IS NOT NULL;
"""

_FIELDS = 'collection, id, "group", due, expires, revision, data'
_INSERT = """
    INSERT INTO documents (collection, id, "group", due, expires, data, body, revision) VALUES (?, ?, ?, ?, ?, ?, ?, 1)
"""
_PUT = f"""
    {_INSERT} ON CONFLICT (collection, id) DO UPDATE SET "group" = excluded."group", due = excluded.due,
        expires = excluded.expires, data = excluded.data, body = excluded.body, revision = revision + 1
"""
_REPLACE = """
    UPDATE documents SET "group" = ?3, due = ?4, expires = ?5, data = ?6, body = ?7, revision = revision + 1
    WHERE collection = ?1 AND id = ?2 AND revision = ?8
"""
_CLAIM = f"""
    UPDATE documents SET due = ?1 + ?2, revision = revision + 1 WHERE key IN (
        SELECT key FROM documents INDEXED BY documents_due WHERE collection = ?3 AND due IS NOT NULL AND due <= ?1
        ORDER BY due LIMIT ?4)
    RETURNING {_FIELDS}
"""
_DROP = """
    DELETE FROM documents WHERE key IN (
        SELECT key FROM documents INDEXED BY documents_expiring WHERE expires IS NOT NULL AND expires <= ? LIMIT ?)
"""


class SqliteDocumentStore(Store):
    """The part of a SQLite store that is about documents. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread

    async def add_document(self, document: Document) -> bool:
        row = _row(document)
        insert = f"{_INSERT} ON CONFLICT DO NOTHING"
        return await self._writer.submit(lambda db: db.execute(insert, row).rowcount == 1)

    async def put_documents(self, documents: Sequence[Document], *, durable: bool = True) -> None:
        rows = [_row(document) for document in documents]
        await self._writer.submit(lambda db: _execute_each(db, _PUT, rows), durable=durable)

    async def replace_document(self, document: Document) -> bool:
        row = (*_row(document), document.revision)
        return await self._writer.submit(lambda db: db.execute(_REPLACE, row).rowcount == 1)

    async def get_documents(self, collection: str, ids: Iterable[str], *, body: bool = False) -> list[Document]:
        fields = f"{_FIELDS}, body" if body else _FIELDS
        select = f"SELECT {fields} FROM documents WHERE collection = ? AND id {AMONG} ORDER BY id"
        values = (collection, listed(ids))
        return [_from(row) for row in await self._reader.submit(lambda db: db.execute(select, values).fetchall())]

    async def list_documents(
        self,
        collection: str,
        *,
        group: str | None = None,
        after: str | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Document]:
        conditions = {"collection = ?": collection, '"group" = ?': group, f"id {'<' if newest_first else '>'} ?": after}
        given = {text: storable(value) for text, value in conditions.items() if value is not None}
        order = "DESC" if newest_first else "ASC"
        select = f"SELECT {_FIELDS} FROM documents WHERE {' AND '.join(given)} ORDER BY id {order} LIMIT ?"
        values = (*given.values(), limit)
        return [_from(row) for row in await self._reader.submit(lambda db: db.execute(select, values).fetchall())]

    async def count_documents(self, collection: str, *, group: str | None = None) -> int:
        select, values = "SELECT count(*) FROM documents WHERE collection = ?", [collection]
        if group is not None:
            select, values = f'{select} AND "group" = ?', [collection, storable(group)]
        count: int = await self._reader.submit(lambda db: db.execute(select, values).fetchone()[0])
        return count

    async def claim_documents(self, collection: str, *, seconds: float, limit: int) -> list[Document]:
        now = time.time()
        values = (now, seconds, collection, limit)
        rows = await self._writer.submit(
            lambda db: db.execute(_CLAIM, values).fetchall(),
            durable=False,
            needed=lambda db: _is_due(db, collection, now),
        )
        return sorted((_from(row) for row in rows or ()), key=lambda each: each.id)

    async def delete_document(self, document: Document) -> bool:
        delete = "DELETE FROM documents WHERE collection = ? AND id = ? AND revision = ?"
        values = (document.collection, storable(document.id), document.revision)
        return await self._writer.submit(lambda db: db.execute(delete, values).rowcount == 1)

    async def delete_documents(self, collection: str, ids: Iterable[str]) -> int:
        delete = f"DELETE FROM documents WHERE collection = ? AND id {AMONG}"
        values = (collection, listed(ids))
        return await self._writer.submit(lambda db: db.execute(delete, values).rowcount)

    async def drop_expired_documents(self, *, limit: int = 1000) -> int:
        values = (time.time(), limit)
        return await self._writer.submit(lambda db: db.execute(_DROP, values).rowcount, durable=False)


def _row(document: Document) -> Row:
    return (
        document.collection,
        storable(document.id),
        storable(document.group),
        document.due,
        document.expires,
        data_to_json(document),
        document.body,
    )


def _from(row: Row) -> Document:
    collection, document_id, group, due, expires, revision, data = row[:7]
    body = row[7] if len(row) > 7 else b""
    return Document(collection, document_id, data_from_json(data), group, due, expires, body, revision)


def _is_due(db: Connection, collection: str, now: float) -> bool:
    select = "SELECT 1 FROM documents INDEXED BY documents_due WHERE collection = ? AND due IS NOT NULL AND due <= ?"
    return db.execute(f"{select} LIMIT 1", (collection, now)).fetchone() is not None


def _execute_each(db: Connection, statement: str, rows: Sequence[Row]) -> None:
    db.executemany(statement, rows)
