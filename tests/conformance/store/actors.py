"""Starts processes of `actor`, and ends them whatever happens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.services.waiting import PATIENCE

ROOT = Path(__file__).parents[3]

Process = asyncio.subprocess.Process


@asynccontextmanager
async def actors(number: int, action: str, url: str, argument: str) -> AsyncIterator[list[Process]]:
    """So many processes, connected and begun at about the same time."""
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_actor(action, url, argument)) for _ in range(number)]
        for process in processes:
            assert await line(process) == "ready"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        yield processes


async def line(process: Process) -> str:
    """The next line that a process prints; empty when it has ended."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().strip()


@asynccontextmanager
async def _actor(action: str, url: str, argument: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.conformance.store.actor",
        action,
        url,
        argument,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
