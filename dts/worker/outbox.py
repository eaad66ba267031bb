"""Sends the results of a message from a child to the worker: when it is done, and now and then while it is not.

Jobs run on the main thread and append what they got to a list; a helper thread looks at it every so often, so that a
result does not wait for a slow job after it. No lock is taken for a job: only senders exclude each other, and each
takes the items that are complete at that moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dts.wire import codec
from dts.wire.dts_pb2 import FAILED, SUCCEEDED, Error, Job, JobBatch, ResultBatch
from dts.worker.board import SENT, STARTED, Board
from dts.worker.frames import Frame, Kind

FLUSH_INTERVAL = 0.05
"""Seconds between looks of the helper, and that a message works before it: a result waits 0.1 s at the most."""
MAX_PENDING = 1024 * 1024
"""Bytes of results that are sent without waiting for either."""
RUNNING_AFTER = 1.0
"""Seconds of work on a message after which the jobs at work are reported, and again when others are, at this pace."""


Ended = tuple[int, Job, bytes, Error | None, float, float]
"""A job that ended: its place in the message, the job, its value, or else its error, the seconds that it took, and
those from the message's start to its own. A plain tuple, since making a named one costs 0.2 µs more.
"""


class Outbox:
    """What is to be sent for one message. `ended` is where jobs put their results, in the order in which they end."""

    def __init__(self, ticket: int, batch: JobBatch, worker: str, board: Board, send: Callable[[Frame], None]) -> None:
        self.ended: list[Ended | None] = []
        self.version = ""
        self._ticket = ticket
        self._jobs = batch.jobs
        self._blank = ResultBatch(
            block=batch.block, run=batch.run, function=batch.function, worker=worker, started=time.time()
        )
        self._board = board
        self._send = send
        self._sending = threading.Lock()
        self._sent = 0
        self._last_sent = self._last_report = time.monotonic()
        self._reported: list[int] = []
        self._done = False

    def flush(self) -> None:
        """Send what has ended since the last time, if anything."""
        with self._sending:
            if len(self.ended) > self._sent and not self._done:
                self._send_ended(Kind.RESULTS)

    def finish(self) -> None:
        """Send the rest, and that the message is done. Nothing is sent for it afterwards."""
        with self._sending:
            self._done = True
            self._send_ended(Kind.DONE)

    def look(self) -> None:
        """Helper thread: send what has waited long enough."""
        now = time.monotonic()
        if now - self._last_sent >= FLUSH_INTERVAL:
            self.flush()
        if now - self._last_report >= RUNNING_AFTER:
            self._last_report = now
            self._report_running()

    def _send_ended(self, kind: Kind) -> None:
        first, end = self._sent, len(self.ended)
        items = self.ended[first:end]
        self.ended[first:end] = [None] * len(items)  # frees their memory
        self._sent = end
        body, encoding, failed = b"", codec.IDENTITY, 0
        if items:
            part, failed = self._encode(items)
            body, encoding = codec.encode(part)
        self._send(Frame(kind, self._ticket, body, encoding, len(items), failed))
        self._last_sent = time.monotonic()
        if kind is not Kind.DONE:
            for item in items:
                if item is not None:
                    self._board.states[item[0]] = SENT

    def _encode(self, items: list[Ended | None]) -> tuple[ResultBatch, int]:
        """Jobs that ended as a message, and how many of them failed."""
        part = ResultBatch()
        part.CopyFrom(self._blank)
        part.version = self.version
        add, failed = part.results.add, 0
        for item in items:
            if item is None:
                continue
            _, job, value, error, duration, offset = item
            if error is None:
                result = add(index=job.index, status=SUCCEEDED, value=value, duration=duration, offset=offset)
            else:
                failed += 1
                result = add(index=job.index, status=FAILED, error=error, duration=duration, offset=offset)
            if job.attempt:
                result.attempt = job.attempt
        return part, failed

    def _report_running(self) -> None:
        positions = self._board.positions(STARTED)
        with self._sending:
            if self._done or not positions or positions == self._reported:
                return
            self._reported = positions
            part = ResultBatch()
            part.CopyFrom(self._blank)
            part.version = self.version
            part.running.extend(self._jobs[position].index for position in positions)
            body, encoding = codec.encode(part)
            self._send(Frame(Kind.RUNNING, self._ticket, body, encoding, len(positions)))


class Flusher:
    """The helper thread. It sleeps while there is no work, and costs a job or a short message nothing."""

    def __init__(self) -> None:
        self._outbox: Outbox | None = None
        self._busy = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def watch(self, outbox: Outbox | None) -> None:
        """Look after this message from now on, or after none."""
        self._outbox = outbox
        if outbox is not None and not self._busy.is_set():
            self._busy.set()

    def _run(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(FLUSH_INTERVAL)
            outbox = self._outbox
            if outbox is None:
                self._busy.clear()
                # A message that came between the look and the clear must not be missed.
                if self._outbox is not None:
                    self._busy.set()
            else:
                outbox.look()
