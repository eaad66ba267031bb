"""`dts.map`, `dts.submit` and `dts.map_frame`: for scripts and notebooks, also where an event loop is running.

    for row in dts.map("text/upper", open("in.txt")):
        print(row["line"], row["result"])
    print(dts.submit("math/add", 1, 2).result(timeout=10))

Credentials and the server are those of `dts-client`: environment, or `~/.config/dts/credentials.toml`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from dts.client.client import DtsClient, Source
from dts.client.credentials import load_credentials, load_server_url
from dts.errors import ConfigError, DtsError

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
_MOST_WAITING = 1000


def open_client(server_url: str | None = None, **options: Any) -> DtsClient:
    """A client with the credentials and the server that `dts-client` would use.

    Raises:
        ConfigError: there are none.
    """
    credentials = load_credentials()
    url = server_url or load_server_url()
    if not url:
        raise ConfigError("which server? Give server_url, or set DTS_SERVER_URL")
    return DtsClient(credentials.user_id, credentials.secret, url, **options)


def map_lines(
    function: str, source: Source, *, ordered: bool = False, server_url: str | None = None
) -> Iterator[dict[str, Any]]:
    """The row of every line or item of `source`, as they come or in order.

    A row has `line`, `success`, `result` or `error`, and `duration`.

    Raises:
        DtsError: the run could not be done.
    """
    client = open_client(server_url)
    rows: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue(_MOST_WAITING)
    gone = threading.Event()

    async def work() -> None:
        async with client:
            results = client.map(function, source, ordered=ordered)
            try:
                async for row in results:
                    while not gone.is_set():
                        try:
                            rows.put_nowait(row)
                            break
                        except queue.Full:
                            await asyncio.sleep(0.01)
                    if gone.is_set():
                        return
            finally:
                await results.aclose()

    thread = _in_thread(work, rows.put)
    try:
        while (row := rows.get()) is not None:
            if isinstance(row, BaseException):
                raise row
            yield row
    finally:
        gone.set()
        thread.join()


class SubmittedJob(str):
    """A job's id, which also has its result."""

    _server_url: str | None

    def __new__(cls, job_id: str, server_url: str | None = None) -> SubmittedJob:
        """The job of that id, at a server."""
        job = super().__new__(cls, job_id)
        job._server_url = server_url
        return job

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned; waits `timeout` seconds for it, for ever if that is None.

        Raises:
            TimeoutError: it has not ended by then.
            JobFailed: it failed, or was cancelled.
        """

        async def wait() -> Any:
            async with open_client(self._server_url) as client:
                return await client.job(self).result(timeout)

        return _run(wait)


def submit(function: str, *args: Any, server_url: str | None = None, **kwargs: Any) -> SubmittedJob:
    """Submit one job: `dts.submit("math/add", 1, 2).result()`.

    Raises:
        DtsError: it was not accepted.
    """

    async def send() -> str:
        async with open_client(server_url) as client:
            return await client.submit(function, *args, **kwargs)

    return SubmittedJob(_run(send), server_url)


def map_frame(function: str, frame: pd.DataFrame, *, column: str, server_url: str | None = None) -> pd.Series[Any]:
    """The results for the values of a column of a pandas DataFrame, as a Series with the frame's index.

    A value whose job failed has None.

    Raises:
        DtsError: the run could not be done.
    """
    import pandas as pd

    results: list[Any] = [None] * len(frame)
    for row in map_lines(function, frame[column].tolist(), server_url=server_url):
        results[row["line"] - 1] = row.get("result")
    return pd.Series(results, index=frame.index, name=column, dtype=object)


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What a coroutine returns, run in a thread with an event loop of its own: the caller's may be running."""
    done: queue.Queue[T | BaseException | None] = queue.Queue()

    async def keep() -> None:
        done.put(await work())

    _in_thread(keep, done.put).join()
    result = done.get()
    if isinstance(result, BaseException):
        raise result
    return result  # type: ignore[return-value]  # T may itself be None


def _in_thread(
    work: Callable[[], Coroutine[Any, Any, None]], end: Callable[[BaseException | None], None]
) -> threading.Thread:
    """Run a coroutine in a thread; `end` gets what it raised, or None."""

    def main() -> None:
        try:
            asyncio.run(work())
        except (DtsError, OSError, ValueError, TypeError, RuntimeError) as error:
            end(error)
        else:
            end(None)

    thread = threading.Thread(target=main, name="dts", daemon=True)
    thread.start()
    return thread


__all__ = ["SubmittedJob", "map_frame", "map_lines", "open_client", "submit"]
