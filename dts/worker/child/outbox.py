"""Sends the results of a message from a child to the worker: when it is done, and now and then while it is not.

Jobs run on the main thread and append what they got to a list; the helper thread looks at it every so often, so that
a result does not wait for a slow job after it. No lock is taken for a job: only senders exclude each other, and each
takes the items that are complete at that moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from dts.wire import codec
from dts.wire.dts_pb2 import FAILED, RETRY, SUCCEEDED, Claim, Job, Progress, ResultBatch
from dts.worker.attempt.retry_policy import Failure
from dts.worker.child import secrets
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.link.board import GIVEN, SENT, STARTED, find_state
from dts.worker.link.frames import Frame, Kind

FLUSH_INTERVAL = 0.05
"""Seconds that a message works before results are sent, and between two sends of it."""
MAX_PENDING = 1024 * 1024
"""Bytes of results that are sent without waiting for either."""
RUNNING_AFTER = 1.0
"""Seconds of work on a message after which the jobs at work are reported, and again when others are, at this pace."""


Ended = tuple[int, Job, bytes, Failure | None, float, float, bytes]
"""A job that ended: its place in the message, the job, its value, or else its failure, the seconds that it took,
those from the message's start to its own, and the values that it yielded. A plain tuple, since making a named one
costs 0.2 µs more.
"""


class Outbox:
    """What is to be sent for one message. `ended` is where jobs put their results, in the order in which they end."""

    def __init__(self, batch: ActiveBatch, worker: str, send: Callable[[Frame], None]) -> None:
        self.ended: list[Ended | None] = []
        self.version = ""
        self.take_progress: Callable[[], list[Progress]] = list
        """Returns what jobs have reported of their progress since the last call."""
        self._batch = batch
        jobs = batch.batch
        self._blank = ResultBatch(
            block=jobs.block, run=jobs.run, function=jobs.function, worker=worker, started=time.time()
        )
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

    def claim(self, claims: Iterable[Claim]) -> None:
        """Send leases that are to be taken or extended, and that their jobs are at work."""
        with self._sending:
            if not self._done:
                part = self._part()
                part.claims.extend(claims)
                part.running.extend(claim.index for claim in part.claims)
                self._send_part(Kind.CLAIM, part, len(part.claims))

    def give_away(self, choose: Callable[[], list[list[int]]]) -> None:
        """Send jobs that are not begun for others to run; `choose` takes them off the waiting ones."""
        with self._sending:
            if self._done:
                return
            for positions in choose():
                body, encoding = codec.encode(self._batch.slice(positions))
                self._send(Frame(Kind.GIVEN, self._batch.ticket, body, encoding, len(positions)))
                for position in positions:
                    self._batch.states[position] = GIVEN

    def look(self, now: float) -> None:
        """Helper thread: send what has waited long enough."""
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
        self._send(Frame(kind, self._batch.ticket, body, encoding, len(items), failed))
        self._last_sent = time.monotonic()
        if kind is not Kind.DONE:
            for item in items:
                if item is not None:
                    self._batch.states[item[0]] = SENT

    def _encode(self, items: list[Ended | None]) -> tuple[ResultBatch, int]:
        """Jobs that ended as a message, and how many of them failed, including those that are tried again."""
        part = self._part()
        add, failed, leased = part.results.add, 0, self._batch.batch.lease
        for item in items:
            if item is None:
                continue
            _, job, value, failure, duration, offset, partials = item
            if failure is None:
                result = add(index=job.index, status=SUCCEEDED, value=value, duration=duration, offset=offset)
            else:
                error, delay, kills = failure
                failed += 1
                status = FAILED if delay is None else RETRY
                result = add(index=job.index, status=status, error=error, duration=duration, offset=offset)
                result.kills, result.delay = kills, delay or 0.0
            if job.attempt:
                result.attempt = job.attempt
            if partials:
                result.partials = partials
            if leased:
                result.fence = job.fence
        _mask(part)
        return part, failed

    def _report_running(self) -> None:
        own = len(self._batch.jobs)  # behind these there may be jobs of messages that run beside it
        positions = [position for position in find_state(self._batch.states, STARTED) if position < own]
        progress = self.take_progress()
        with self._sending:
            if self._done or not positions or (positions == self._reported and not progress):
                return
            self._reported = positions
            part = self._part()
            part.running.extend(self._batch.jobs[position].index for position in positions)
            part.progress.extend(progress)
            _mask(part)
            self._send_part(Kind.RUNNING, part, len(positions))

    def _part(self) -> ResultBatch:
        part = ResultBatch()
        part.CopyFrom(self._blank)
        part.version = self.version
        part.concurrent = self._batch.is_async
        return part

    def _send_part(self, kind: Kind, part: ResultBatch, jobs: int) -> None:
        body, encoding = codec.encode(part)
        self._send(Frame(kind, self._batch.ticket, body, encoding, jobs))


def _mask(part: ResultBatch) -> None:
    """Take the secrets that the namespace has or had out of results, errors and what jobs yield."""
    masker = secrets.masker()
    if not masker.secrets:
        return
    for progress in part.progress:
        progress.partials = _without_secrets(progress.partials)
    for result in part.results:
        if result.value:
            result.value = masker.json(result.value)
        result.partials = _without_secrets(result.partials)
        if result.HasField("error"):
            result.error.message = masker.text(result.error.message)
            result.error.traceback = masker.text(result.error.traceback)


def _without_secrets(partials: bytes) -> bytes:
    """The JSON array of yielded values with secrets masked: an array whatever was masked, for nothing else is taken."""
    masked = secrets.masker().json(partials)
    return masked if masked.startswith(b"[") or not masked else b"[%s]" % masked
