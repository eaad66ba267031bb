"""`python -m dts.server --check`: whether the server could work, part by part, without serving."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable

from dts.broker import Broker, open_broker
from dts.config import Settings
from dts.errors import ConfigError, DtsError
from dts.runtime.process import EXIT_FAILED, EXIT_OK
from dts.server.access.accounts import Accounts
from dts.server.access.key_box import KeyBox
from dts.store import Store, open_store

_PATIENCE = 10.0
"""Seconds that a back end gets to answer."""


async def check(settings: Settings) -> int:
    """Print a line for each part, `PART: ok` or what is wrong with it; returns the exit code."""
    code = EXIT_OK
    async for part, problem in _problems(settings):
        print(f"{part}: {problem or 'ok'}", file=sys.stderr)  # noqa: T201
        code = EXIT_FAILED if problem else code
    return code


async def _check_queues(settings: Settings, broker: Broker) -> None:
    await broker.claim_for(KeyBox.open(settings.server.key_file).derive("installation"))


async def _problems(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    store = open_store(settings.store.url)
    try:
        problem = await _problem(store.start())
        yield "store", problem
        if not problem:
            yield "key file", await _problem(_check_key_file(settings, store))
    finally:
        await store.close()
    async with open_broker(settings.broker.url, settings.broker.routes) as broker:
        problem = await _problem(broker.ping())
        if not problem and settings.server.key_file.exists():
            problem = await _problem(_check_queues(settings, broker))
        yield "broker", problem


async def _check_key_file(settings: Settings, store: Store) -> None:
    path = settings.server.key_file
    if path.exists():
        await Accounts(store, KeyBox.open(path)).check_key_file()
    elif await store.has_users():
        raise ConfigError(f"the server's key file {path} is not there, and the store was used with one before")


async def _problem(work: Awaitable[None]) -> str:
    """What is wrong, in words; nothing if the work is done."""
    try:
        async with asyncio.timeout(_PATIENCE):
            await work
    except TimeoutError:
        return f"no answer within {_PATIENCE:g} s"
    except DtsError as error:
        return str(error)
    return ""
