"""The versions that this host has: a message that asks for one it lacks waits until that is here, or cannot be had."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from dts.errors import DtsError, ImportFailed, ServerUnavailable
from dts.runtime.backoff import Backoff
from dts.runtime.service import Service
from dts.wire.archive import Source
from dts.wire.function_source import requirements_of
from dts.worker.link.versions import ENVIRONMENTS, VersionFolder, namespace_of
from dts.worker.versions.environment import ensure_environment
from dts.worker.versions.folder import prune_versions, write_version

logger = logging.getLogger(__name__)

_PATIENCE = 300.0
"""Seconds for which a message waits for a server that does not answer, or for a version that is still to be pushed:
as long as a server takes to come back, and within the half hour that a broker waits for a consumer."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts


class Fetcher(Protocol):
    """Where versions come from."""

    async def fetch(self, function: str, version: str) -> Source:
        """The files of a version. Raises ServerUnavailable when another attempt may succeed, DtsError when not."""


class Versioned(Protocol):
    """What waits for a version: it has the name of its function, and the version's hash."""

    function: str
    version: str


A = TypeVar("A", bound=Versioned)


class VersionLibrary(Service, Generic[A]):
    """The folder of versions. Without a fetcher, versions come only by being pushed to it."""

    def __init__(self, folder: Path, fetcher: Fetcher | None = None, installer_arguments: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._folder = folder
        self._fetcher = fetcher
        self._arguments = installer_arguments
        self._waiting: set[A] = set()
        self._coming: dict[tuple[str, str], asyncio.Task[None]] = {}  # by namespace and version

    async def _start(self) -> None:
        self._stack.push_async_callback(self._cancel_all)

    @property
    def is_preparing(self) -> bool:
        """Whether messages wait for a version."""
        return bool(self._coming)

    def use(self, function: str, version: str) -> bool:
        """Whether a version is here, so that a child can run it; if so, it is noted to be in use."""
        folder = VersionFolder(self._folder, version)
        if is_here := folder.has(namespace_of(function)):
            folder.note_use()
        return is_here

    @property
    def waiting(self) -> int:
        """How many assignments wait for their versions."""
        return len(self._waiting)

    def prepare(self, assignment: A, then: Callable[[A], None]) -> None:
        """Call `then` when an assignment's version is here, or it is known why it cannot be: its folder tells which.

        Nothing is called for one that is taken back before that.
        """
        self._waiting.add(assignment)
        function, version = assignment.function, assignment.version
        key = namespace_of(function), version
        task = self._coming.get(key)
        if task is None:
            task = self._coming[key] = asyncio.create_task(
                self._prepare(function, version), name=f"version {version[:12]}"
            )
        task.add_done_callback(lambda done: self._end_wait(assignment, then))

    def _end_wait(self, assignment: A, then: Callable[[A], None]) -> None:
        if assignment in self._waiting:
            self._waiting.discard(assignment)
            then(assignment)

    def take_back(self) -> list[A]:
        """Take back every assignment that waits for its version."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    async def _prepare(self, function: str, version: str) -> None:
        folder = VersionFolder(self._folder, version)
        began = time.monotonic()
        try:
            await self._obtain(folder, function, version)
        except DtsError as error:
            logger.error("version %s of %s cannot be had, and its jobs here fail: %s", folder.short, function, error)
            folder.note_error(str(error))
        except Exception as error:  # a full disk, or a fault of ours: it costs the jobs of this version alone
            logger.exception("version %s of %s cannot be had, and its jobs here fail", folder.short, function)
            folder.note_error(f"{type(error).__name__}: {error}")
        else:
            folder.note_error("")
            logger.info("version %s of %s is here after %.1f s", folder.short, function, time.monotonic() - began)
        finally:
            self._coming.pop((namespace_of(function), version), None)

    async def _obtain(self, folder: VersionFolder, function: str, version: str) -> None:
        source = await self._wait_for(folder, function, version)
        if source is None:
            return
        environment = None
        if requirements := requirements_of(source):
            environments = self._folder / ENVIRONMENTS
            environment = await ensure_environment(environments, requirements, self._arguments)
        self._folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(write_version, folder, namespace_of(function), source, environment)
        await asyncio.to_thread(prune_versions, self._folder)

    async def _wait_for(self, folder: VersionFolder, function: str, version: str) -> Source | None:
        """The source of a version; None when it has been pushed to this host meanwhile.

        Raises:
            DtsError: it cannot be had.
        """
        backoff, until = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), time.monotonic() + _PATIENCE
        problem = "it was not deployed to this host, and [worker] server_url names no server to fetch it from"
        while not folder.has(namespace_of(function)):
            if self._fetcher is not None:
                try:
                    return await self._fetcher.fetch(function, version)
                except ServerUnavailable as error:
                    problem = str(error)
            if time.monotonic() >= until:
                raise ImportFailed(f"version {folder.short} of {function}: {problem}")
            await asyncio.sleep(backoff.next_pause())
        return None

    async def _cancel_all(self) -> None:
        self._waiting.clear()
        tasks = list(self._coming.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
