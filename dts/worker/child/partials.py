"""What jobs tell before they end: values that generators yield, and how far they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from dts.worker.child import current_job
from dts.worker.child.yielded import Yielded

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class Partials:
    """Collects the values that the jobs at work yield, `limit` bytes of each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loop: AbstractEventLoop | None = None

    def collect(self, main: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
        """A function that runs a generator function to its end, and returns what that returns."""

        def run(*args: Any, **kwargs: Any) -> Any:
            return self._exhaust(main(*args, **kwargs))

        async def run_async(*args: Any, **kwargs: Any) -> None:
            await self._exhaust_async(main(*args, **kwargs))

        return run_async if is_async else run

    def complete(self, result: Any) -> Any:
        """What comes of a plain function's result that is not done yet: of a generator, a coroutine or the like.

        A decorator that is no `async def` hides from the loader that the function beneath it is one.
        """
        kind = type(result)
        if kind is GeneratorType:
            return self._exhaust(result)
        if kind is AsyncGeneratorType:
            return self._wait_for(self._exhaust_async(result))
        if issubclass(kind, Awaitable):
            return self._wait_for(_await(result))
        return result

    def _exhaust(self, generator: Generator[Any, Any, Any]) -> Any:
        yielded = self._begin()
        while True:
            try:
                value = next(generator)
            except StopIteration as end:
                return end.value
            yielded.add(value)

    async def _exhaust_async(self, generator: AsyncGenerator[Any, Any]) -> None:
        yielded = self._begin()
        try:
            async for value in generator:
                yielded.add(value)
        finally:
            await generator.aclose()

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on a loop that is kept, since a module may keep a client that belongs to it.

        It is one of asyncio's, where an exception from a signal's handler ends the wait, as time limits have it.
        """
        import asyncio  # most children never need it

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                self._loop.run_until_complete(asyncio.wait([task]))
            raise

    def _begin(self) -> Yielded:
        yielded = Yielded(self._limit)
        batch, position = current_job.now()
        if batch is not None:
            batch.yielded[position] = yielded
        return yielded


async def _await(work: Awaitable[Any]) -> Any:
    return await work
