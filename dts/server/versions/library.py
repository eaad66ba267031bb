"""The versions of functions, as documents of the store: who deployed what and when, and its source as the body."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import msgspec

from dts.errors import InvalidInput
from dts.model import Function
from dts.model.documents import Document
from dts.store import Store
from dts.wire.archive import SHORT, Source, is_version, is_version_prefix, pack, version_of
from dts.wire.function_source import requirements_of

COLLECTION = "function_versions"

KEPT = 100
"""Versions that are kept of a function. The oldest go, unless they are in use by its record."""


@dataclass(frozen=True, slots=True)
class Version:
    """What was deployed: `hash` is over its files, `size` their bytes together, `created` when it was deployed last."""

    function: str
    hash: str
    user: str
    created: float
    message: str = ""
    files: tuple[str, ...] = ()
    size: int = 0
    requirements: bool = False

    @property
    def short(self) -> str:
        """The first digits of the hash, as results show it."""
        return self.hash[:SHORT]


def new_version(function: str, source: Source, *, user: str, message: str) -> Version:
    """What is going to be on record of a source."""
    return Version(
        function,
        version_of(source),
        user,
        round(time.time(), 6),
        message,
        tuple(sorted(source)),
        sum(len(each.data) for each in source.values()),
        bool(requirements_of(source)),
    )


async def add_version(store: Store, version: Version, source: Source) -> None:
    """Store a version, durably; one that was there becomes the latest."""
    data = asdict(version)
    document = Document(COLLECTION, _id(version.function, version.hash), data, version.function, body=pack(source))
    await store.put_documents([document])


async def list_versions(store: Store, function: str) -> list[Version]:
    """All versions of a function, the one that was deployed last first."""
    documents = await store.list_documents(COLLECTION, group=function, limit=10 * KEPT)
    return sorted((_version(each) for each in documents), key=lambda version: version.created, reverse=True)


async def get_version(store: Store, function: str, version: str) -> Version | None:
    """What is on record of a version by its whole hash, or None."""
    document = await store.get_document(COLLECTION, _id(function, version))
    return _version(document) if document is not None else None


async def get_archive(store: Store, function: str, version: str) -> bytes | None:
    """The source of a version by its whole hash, or None."""
    document = await store.get_document(COLLECTION, _id(function, version), body=True)
    return document.body if document is not None else None


async def resolve(store: Store, function: str, text: str) -> Version:
    """The version of a function that a hash, or its first digits, names.

    Raises:
        InvalidInput: it names none, or several.
    """
    if is_version(text):
        found = await get_version(store, function, text)
        named = [found] if found is not None else []
    elif is_version_prefix(text):
        named = [each for each in await list_versions(store, function) if each.hash.startswith(text)]
    else:
        raise InvalidInput(f"{text[:80]!r} is not a version: give its hash, or at least four of its first digits")
    if len(named) == 1:
        return named[0]
    if named:
        raise InvalidInput(f"{text} is the beginning of {len(named)} versions of {function}: give more of its digits")
    raise InvalidInput(f"{function} has no version {text}: `functions versions {function}` lists those that there are")


async def drop_old_versions(store: Store, function: Function) -> int:
    """Delete the oldest versions of a function beyond those that are kept; how many."""
    versions = await list_versions(store, function.name)
    in_use = {function.deployed, function.pinned}
    old = [each for each in versions[KEPT:] if each.hash not in in_use]
    return await _delete(store, old)


async def drop_versions(store: Store, function: str) -> int:
    """Delete all versions of a function that is gone; how many."""
    return await _delete(store, await list_versions(store, function))


async def _delete(store: Store, versions: Sequence[Version]) -> int:
    if not versions:
        return 0
    return await store.delete_documents(COLLECTION, [_id(each.function, each.hash) for each in versions])


async def deploy(store: Store, function: Function, version: Version) -> Function:
    """Have new jobs of a function run a version, unless one is pinned; returns its record as it is then."""
    while function.deployed != version.hash:
        changed = replace(function, deployed=version.hash, version=function.version + 1, modified=round(time.time(), 6))
        if await store.replace_record(changed, version=function.version):
            return changed
        newer = await store.get_record(Function, function.name)
        if newer is None:
            raise InvalidInput(f"the function {function.name} was deleted while it was deployed")
        function = newer
    return function


def _id(function: str, version: str) -> str:
    return f"{function}@{version}"


def _version(document: Document) -> Version:
    return msgspec.convert(document.data, Version)
