"""The way to a MongoDB server: its client and collections, and which of its errors are a document's own fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from bson.errors import BSONError
from bson.int64 import Int64
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.server_description import ServerDescription

from dts.errors import ConfigError, NotStorable, StoreError, StoreUnavailable
from dts.store.mongo.documents import Document

P = ParamSpec("P")
T = TypeVar("T")

Collection = AsyncIOMotorCollection[Document]

DUPLICATE_KEY = 11000
_BAD_VALUE = 2

_DEFAULT_DATABASE = "dts"
_LIMITS = {
    "serverSelectionTimeoutMS": 2000,
    "connectTimeoutMS": 2000,
    "socketTimeoutMS": 5000,  # and not timeoutMS, which would stretch the search for a server to as much
    "maxPoolSize": 32,
    "retryWrites": True,  # where there is a replica set; a single server has no such thing and ignores it
    "retryReads": True,
    "appname": "dts",
}
_CALL_TIMEOUT = 8.0
"""Seconds that a whole call may take: its operations may wait for one of few threads, and each may be tried twice."""

CLOCK_INTERVAL = 30.0
"""Seconds between looks at the server's clock."""

_PING_TIMEOUT = 2.0  # seconds, as the contract says

_CONTENT_CODES = frozenset(
    {
        DUPLICATE_KEY,
        11001,  # DuplicateKey, of an update
        12582,  # DuplicateKey, behind a router
        _BAD_VALUE,
        14,  # TypeMismatch
        15,  # Overflow: nested too deeply
        22,  # InvalidBSON
        28,  # PathNotViable
        52,  # DollarPrefixedFieldName
        56,  # EmptyFieldName
        57,  # DottedFieldName
        66,  # ImmutableField
        121,  # DocumentValidationFailure
        10334,  # BSONObjectTooLarge
        17280,  # KeyTooLong
        17419,  # an update would make a document too large
        17420,  # likewise
    }
)
"""What is wrong with a document itself. All else is the server's fault, or that of somebody who sets it up: to take
that for the document's would throw away what could be stored an hour later, and no list of such codes is ever whole."""

_REFUSED_CODES = frozenset({13, 18})  # Unauthorized, AuthenticationFailed


def translated(error: PyMongoError | BSONError) -> StoreError:
    """What a caller of the store sees: NotStorable for what is in a document, StoreUnavailable for all else."""
    if isinstance(error, BSONError):
        return NotStorable(f"MongoDB cannot store this: {error}")
    if not isinstance(error, OperationFailure) or isinstance(error, WriteConcernError) or error.timeout:
        return StoreUnavailable(f"MongoDB does not answer: {error}")
    if isinstance(error, BulkWriteError):
        if error.details.get("writeConcernErrors"):
            return StoreUnavailable("MongoDB could not confirm that a write is durable")
        faults = [(failed["code"], failed.get("errmsg", "")) for failed in error.details.get("writeErrors", ())]
    else:
        faults = [(error.code, str(error))]
    if faults and all(_is_of_content(code, message) for code, message in faults):
        return NotStorable(f"MongoDB does not store this: {error}")
    if any(code in _REFUSED_CODES for code, _ in faults):
        return StoreUnavailable(f"MongoDB does not let the user of the store's URL do this: {error}")
    return StoreUnavailable(f"MongoDB cannot do this now: {error}")


def _is_of_content(code: int | None, message: str) -> bool:
    """Whether a document is at fault. A hint at an index that was dropped has the code of a bad value, too."""
    return code in _CONTENT_CODES and not (code == _BAD_VALUE and "hint" in message)


def translating(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorate a method that talks to MongoDB: what the driver raises is `translated`."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                return await method(*args, **kwargs)
        except TimeoutError as error:
            raise StoreUnavailable("MongoDB does not answer") from error
        except (PyMongoError, BSONError) as error:
            raise translated(error) from error

    return call


class _PlainInt(TypeDecoder):
    """Reads 64-bit numbers as `int`: the subclass that they come as is not encoded as JSON or in messages."""

    bson_type = Int64

    def transform_bson(self, value: Int64) -> int:
        """The same number."""
        return int(value)


class MongoConnection:
    """A client that connects on `open`. Writes are confirmed by a majority and its journal, unless one says `quick`.

    Raises:
        ConfigError: the URL can never work.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: AsyncIOMotorClient[Document] | None = None
        self._database: AsyncIOMotorDatabase[Document] | None = None
        self._zero = time.time() - time.monotonic()
        self._clock: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Make the client, in a running event loop. Nothing is sent yet."""
        self.close()
        try:
            self._client = AsyncIOMotorClient(
                self._url, io_loop=asyncio.get_running_loop(), **_without_given(_LIMITS, self._url)
            )
            self._database = self._client.get_default_database(
                _DEFAULT_DATABASE,
                write_concern=WriteConcern("majority", j=True),
                codec_options=CodecOptions(type_registry=TypeRegistry([_PlainInt()])),
                read_preference=ReadPreference.PRIMARY,  # whatever the URL says: what was written is read, see Blocks
            )
        except (InvalidURI, ConfigurationError, ValueError, OSError) as error:  # OSError: a file of the URL
            self.close()
            raise ConfigError(f"store URL: {error}; write mongodb://host:27017/database") from error

    def follow_clock(self) -> None:
        """Begin to read the server's time now and then: it may be set, and another primary may have another."""
        self._clock = asyncio.create_task(self._follow_clock(), name="mongodb-clock")

    async def _follow_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_INTERVAL)
            with suppress(StoreUnavailable, ConfigError):  # whoever uses the store finds that out, too
                await self.ping()

    def close(self) -> None:
        """Let go of the server. May be called twice, or without `open`."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        if self._client is not None:
            self._client.close()
        self._client = self._database = None

    def collection(self, name: str) -> Collection:
        """A collection whose writes are durable when they return.

        Raises:
            StoreUnavailable: the connection is closed.
        """
        if self._database is None:
            raise StoreUnavailable("the store is not open: it was closed, or not started")
        return self._database[name]

    def quick(self, name: str) -> Collection:
        """The same collection, but its writes may be lost in a power cut or a fail-over."""
        return self.collection(name).with_options(write_concern=WriteConcern(1))

    def committed(self, name: str) -> Collection:
        """The same collection, but only what a majority has is read from it: no fail-over takes that back.

        For what users are told. A change that is computed from what is read, and guarded by it, reads what the primary
        has: that may be a moment newer.
        """
        return self.collection(name).with_options(read_concern=ReadConcern("majority"))

    def replicated(self, name: str) -> Collection:
        """The same collection, but its writes do not wait for the disk of the majority that has them."""
        return self.collection(name).with_options(write_concern=WriteConcern("majority", j=False))

    def incarnation(self) -> object:
        """Which life of which server takes writes: what was the same before some writes and after them, took them all.

        Where that cannot be told it is never the same.
        """
        if self._client is None:
            return object()
        servers = [
            each
            for each in self._client.delegate.topology_description.server_descriptions().values()
            if each.is_writable
        ]
        lives = [each.topology_version["processId"] for each in servers if each.topology_version]
        # Behind a router there may be any primary, and it may change without a sign.
        if len(servers) != 1 or len(lives) != 1 or servers[0].server_type_name == "Mongos":
            return object()
        return servers[0].address, lives[0], servers[0].election_id

    def _state(self) -> str:
        """What the driver knows of the servers: why none of them can be written to."""
        if self._client is None:
            return "the connection is closed"
        topology = self._client.delegate.topology_description
        servers = topology.server_descriptions().values()
        states = [_state_of(each) for each in servers]
        if topology.topology_type_name.startswith("ReplicaSet"):
            name = f"replica set {topology.replica_set_name}"
            if any(each.server_type_name == "RSSecondary" for each in servers):
                return f"{name} has no primary now ({'; '.join(states)})"
            if not states:
                return f"none of the hosts in its URL is a member of {name}: is replicaSet right?"
            return f"{name} cannot be reached ({'; '.join(states)})"
        return "; ".join(states)

    def now(self) -> float:
        """The server's time in seconds since the epoch: one for all processes, whatever time their hosts have.

        It was read by the last `ping`, CLOCK_INTERVAL ago at most, and goes on by a clock that nobody can set.
        """
        return self._zero + time.monotonic()

    @translating
    async def ping(self) -> None:
        """Make sure that the server answers, within two seconds, and see what time it has.

        Raises:
            ConfigError: it does not let us in.
            StoreUnavailable: it does not answer.
        """
        database = self.collection("users").database
        try:
            async with asyncio.timeout(_PING_TIMEOUT):
                answer = await database.command("hello")
        except TimeoutError as error:
            raise StoreUnavailable(f"MongoDB does not answer: {self._state()}") from error
        except ServerSelectionTimeoutError as error:
            raise StoreUnavailable(f"MongoDB does not answer: {self._state()}") from error
        except OperationFailure as error:
            if error.code in _REFUSED_CODES:
                raise ConfigError(f"MongoDB refuses the user or password in the store's URL: {error}") from error
            raise
        self._zero = answer["localTime"].replace(tzinfo=UTC).timestamp() - time.monotonic()


async def insert_new(collection: Collection, documents: Sequence[Document]) -> set[int]:
    """Insert documents, passing over those whose _id is there already; the positions of these.

    Raises:
        BulkWriteError: one was not inserted for another reason.
    """
    if not documents:
        return set()
    try:
        await collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        failed = error.details["writeErrors"]
        if error.details.get("writeConcernErrors") or any(one["code"] != DUPLICATE_KEY for one in failed):
            raise
        return {one["index"] for one in failed}
    return set()


def _state_of(server: ServerDescription) -> str:
    """What is known of a server, in words: `db1:27017: Connection refused`."""
    host, port = server.address
    if server.error is None:
        return f"{host}:{port} is {server.server_type_name}"
    cause = str(server.error).partition(" (configured timeouts")[0]
    return cause if cause.startswith(f"{host}:{port}") else f"{host}:{port}: {cause}"


def _without_given(options: dict[str, Any], url: str) -> dict[str, Any]:
    """`options` but for those that the URL sets itself."""
    query = url.partition("?")[2].lower()
    given = {pair.partition("=")[0] for pair in query.replace(";", "&").split("&")}
    return {name: value for name, value in options.items() if name.lower() not in given}
