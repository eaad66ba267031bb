"""Rollouts: which version of a function is to be on which hosts, and how far that is.

A rollout and each of its hosts is a document of the store. A host's document is due while the version is not there: a
server claims it, pushes the version, and notes how that went. A server that dies leaves the document due again after
its claim; a host that is down is tried again until it is back, or until another rollout of the function takes its
place. With a canary the other hosts become due only when the version is on that one.

When no host is left but those that are down, and none has refused the version, new jobs run it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import msgspec

from dts.model import Function
from dts.model.documents import Document
from dts.server.versions.library import deploy, get_version
from dts.store import Store

ROLLOUTS = "rollouts"
HOSTS = "rollout_hosts"

State = Literal["held", "due", "unreachable", "done", "failed"]
"""Of a host: it waits for the canary; it is worked on, or is about to be; it is down, and tried again; it has the
version; it has refused it."""


@dataclass(frozen=True, slots=True)
class HostState:
    """How far a host is."""

    function: str
    host: str
    version: str
    state: State
    error: str = ""
    attempts: int = 0
    modified: float = 0.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """What is to be where. `state` is `running` until the version is active, or is not going to be."""

    function: str
    version: str
    hosts: tuple[str, ...]
    canary: str
    user: str
    created: float
    state: Literal["running", "active", "failed"] = "running"


async def start_rollout(store: Store, rollout: Rollout) -> None:
    """Have a version on hosts from here on, in place of whatever was to be there of its function."""
    now = round(time.time(), 3)
    first = {rollout.canary} if rollout.canary else set(rollout.hosts)
    before = await list_hosts(store, rollout.function)
    gone = [each.host for each in before if each.host not in rollout.hosts and each.state != "done"]
    await store.delete_documents(HOSTS, [_id(rollout.function, host) for host in gone])
    states = [
        HostState(rollout.function, host, rollout.version, "due" if host in first else "held", modified=now)
        for host in rollout.hosts
    ]
    # The rollout first: a server that dies in between has begun nothing, and a repeat begins anew.
    await store.put_documents([Document(ROLLOUTS, rollout.function, asdict(rollout))])
    await store.put_documents([_document(each, due=0.0 if each.state == "due" else None) for each in states])


async def get_rollout(store: Store, function: str) -> Rollout | None:
    """The latest rollout of a function, if there was any."""
    document = await store.get_document(ROLLOUTS, function)
    return msgspec.convert(document.data, Rollout) if document is not None else None


async def list_hosts(store: Store, function: str) -> list[HostState]:
    """How far the hosts of a function are, by name."""
    return [state_of(each) for each in await _list_all(store, HOSTS, group=function)]


async def list_running(store: Store) -> dict[str, int]:
    """The functions whose rollouts run, with the revisions of those."""
    rollouts = await _list_all(store, ROLLOUTS)
    return {each.id: each.revision for each in rollouts if each.data["state"] == "running"}


async def _list_all(store: Store, collection: str, *, group: str | None = None) -> list[Document]:
    found: list[Document] = []
    while page := await store.list_documents(collection, group=group, after=found[-1].id if found else None):
        found += page
    return found


async def note(store: Store, claimed: Document, state: HostState, *, due: float | None) -> bool:
    """Note how far a host is; False if another rollout, or another server, has written meanwhile."""
    return await store.replace_document(replace(_document(state, due=due), revision=claimed.revision))


async def advance(store: Store, function: str) -> Rollout | None:
    """Do what follows from how far the hosts are; safe to repeat. Returns the rollout if it has just ended."""
    document = await store.get_document(ROLLOUTS, function)
    if document is None:
        return None
    rollout = msgspec.convert(document.data, Rollout)
    states = [each for each in await list_hosts(store, function) if each.version == rollout.version]
    if rollout.state != "running" or not states:
        return None
    failed = any(each.state == "failed" for each in states)
    if not failed and any(each.state == "held" for each in states):
        if any(each.host == rollout.canary and each.state == "done" for each in states):
            await _release(store, states)
        return None
    if any(each.state == "due" for each in states) or not any(each.state in ("done", "failed") for each in states):
        return None
    return await _end(store, document, replace(rollout, state="failed" if failed else "active"))


async def _release(store: Store, states: Iterable[HostState]) -> None:
    """Have the hosts that waited for the canary worked on."""
    held = {_id(each.function, each.host): each for each in states if each.state == "held"}
    for document in await store.get_documents(HOSTS, held):
        if state_of(document).state == "held":
            await note(store, document, replace(held[document.id], state="due"), due=0.0)


async def _end(store: Store, document: Document, rollout: Rollout) -> Rollout | None:
    if rollout.state == "active":
        function = await store.get_record(Function, rollout.function)
        version = await get_version(store, rollout.function, rollout.version)
        if function is None or version is None:
            rollout = replace(rollout, state="failed")
        else:
            await deploy(store, function, version)
    ended = await store.replace_document(replace(document, data=asdict(rollout)))
    return rollout if ended else None


def state_of(document: Document) -> HostState:
    """How far the host of a document is."""
    return msgspec.convert(document.data, HostState)


def _document(state: HostState, *, due: float | None) -> Document:
    return Document(HOSTS, _id(state.function, state.host), asdict(state), state.function, due=due)


def _id(function: str, host: str) -> str:
    return f"{function}@{host}"
