"""How tests wait: for an event or a condition, with one limit for all. It needs no test framework.

The limit only ends what would never end. It is far beyond what anything takes on a machine ten times slower than usual,
and below the time that pytest gives a test, so that the message of a wait in vain says what was waited for.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 120.0 * float(os.environ.get("DTS_TEST_PATIENCE", "1"))
"""Seconds. The variable DTS_TEST_PATIENCE, a factor, is for machines that are slower still."""

_POLL_INTERVAL = 0.01


def wait_until(condition: Callable[[], T], what: str, *, timeout: float = PATIENCE) -> T:
    """Poll until a condition gives something true, and return that.

    Raises:
        AssertionError: it does not, for `timeout` seconds; the message names `what`.
    """
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s for {what}")
        time.sleep(_POLL_INTERVAL)


async def until(condition: Callable[[], Any | Awaitable[Any]], what: str = "a condition") -> Any:
    """As `wait_until`, in an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE:.0f} s for {what}")
        await asyncio.sleep(_POLL_INTERVAL)


def within() -> asyncio.Timeout:
    """A context manager for a wait that ends by an event: it ends by TimeoutError after PATIENCE seconds."""
    return asyncio.timeout(PATIENCE)
