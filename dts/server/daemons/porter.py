"""Porter: results queue → store, in bulk, idempotently.

It acks a delivery when its results are in the store; a crash in between brings them again, and the store takes a
repeat as what it is. What cannot be read or recorded goes to the dead letters, and nothing else waits for it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial

import msgspec

from dts.broker import Consumer, Delivery
from dts.errors import WireError
from dts.model import MAX_BLOCK_SIZE, Candidate, bitmap, split_job_id
from dts.server.attempts.plan import Attempts, Reading
from dts.server.attempts.poison import poisoned_jobs
from dts.server.daemons._base import Daemon
from dts.server.ending.notices import announce_results
from dts.server.history.functions import FunctionHistory
from dts.server.intake.memo import MemoWriter
from dts.server.lookup.catalogue import Catalogue
from dts.server.record.job_metrics import observe_results
from dts.server.record.values import fail_what_is_not_json, is_json_array
from dts.wire import codec, dts_pb2, sanitize
from dts.wire.queues import RESULTS, TOPIC_PROGRESS, TOPIC_RESULTS, TOPIC_SPEEDS

logger = logging.getLogger(__name__)

_PREFETCH = 256
_HISTORY_INTERVAL = 10.0  # seconds; what a process has not written by then is lost if it is killed
_MAX_MESSAGES = 64
"""Messages recorded in one go: enough to share a write, few enough that the loop is not blocked decoding them."""

_STATUSES = (dts_pb2.SUCCEEDED, dts_pb2.FAILED, dts_pb2.CANCELLED, dts_pb2.RETRY)

_MAX_LEASE = 7 * 86400  # seconds; a job is queued again so long after its worker was lost, at the latest
_MAX_COUNT = 1_000_000  # attempts of a job: far more than anybody waits for

_EVENT_BYTES = 4096
"""Bytes of progress that one event tells, or what one job has to tell."""

_RECENT = 0.3
"""Weight of the newest batch in a function's mean duration."""


class Porter(Daemon):
    """Records results."""

    async def _start(self) -> None:
        self._speeds: dict[str, tuple[float, bool]] = {
            function.name: (function.mean_duration, function.concurrent)
            for function in await self._retry_until_available(self._store.list_functions, "read the functions")
            if function.mean_duration is not None
        }
        self._told: dict[str, float] = {}  # the means as they were last broadcast
        self._unsaved: set[str] = set()
        consumer = await self._broker.consume(RESULTS, prefetch=_PREFETCH)
        self._stack.push_async_callback(consumer.close)
        self._spawn(self._carry(consumer), "porter")
        self._history = FunctionHistory(self._store)
        self._spawn(self._every(_HISTORY_INTERVAL, self._history.flush, "note statistics"), "porter-history")
        self._spawn(self._every(2.0, self._save_speeds, "note the speeds of functions"), "porter-speeds")

    async def _carry(self, consumer: Consumer) -> None:
        attempts = Attempts(self._store)
        memo = MemoWriter(self._store, Catalogue(self._store))
        while deliveries := await consumer.receive(_MAX_MESSAGES):
            readings = await self._read(consumer, deliveries, read_results)
            recorded = await self._record(consumer, readings, attempts.record, "record results")
            runs: set[str] = set()
            progress: dict[str, bytes] = {}
            news: dict[str, tuple[float, bool]] = {}
            for reading in recorded:
                runs.add(reading.run)
                self._learn(reading.batch, news)
                self._note(reading)
                observe_results(reading.batch, reading.queued, retried=bool(reading.retried))
                if reading.batch.progress:
                    progress.update(_progress_of(reading.batch))
            await self._broker.broadcast(TOPIC_RESULTS, " ".join(runs))
            finished = await self._retry_until_available(partial(self._store.finish_runs, list(runs)), "finish runs")
            await announce_results(self._broker, finished)
            if news:
                await self._broker.broadcast(TOPIC_SPEEDS, msgspec.json.encode(news).decode())
            for part in _portions(progress):
                await self._broker.broadcast(TOPIC_PROGRESS, part)
            await self._try(partial(memo.remember, [reading.batch for reading in recorded]), "remember results")

    def _learn(self, batch: dts_pb2.ResultBatch, news: dict[str, tuple[float, bool]]) -> None:
        """Take a batch into its function's mean duration; tell the servers when that changes what they would do."""
        if not batch.results:
            return
        mean = sum([result.duration for result in batch.results]) / len(batch.results)
        known = self._speeds.get(batch.function)
        if not 0 <= mean < math.inf:
            return  # nonsense of somebody's clock, and no JSON
        if known is not None:
            mean = _RECENT * mean + (1 - _RECENT) * known[0]
        self._speeds[batch.function] = (mean, batch.concurrent)
        self._unsaved.add(batch.function)
        told = self._told.get(batch.function)
        if told is None or not 0.8 < mean / max(told, 1e-9) < 1.25:
            self._told[batch.function] = mean
            news[batch.function] = (mean, batch.concurrent)

    def _note(self, reading: Reading) -> None:
        """Take a message of results into the statistics of its function."""
        batch = reading.batch
        if batch.results:
            failed = reading.candidate.failed | reading.retried
            durations = [result.duration for result in batch.results]
            self._history.note(batch.function, durations, failed.bit_count(), wait_of(reading, time.time()))

    async def _save_speeds(self) -> None:
        unsaved, self._unsaved = self._unsaved, set()
        if unsaved:
            await self._store.set_speeds({name: self._speeds[name] for name in unsaved})


def wait_of(reading: Reading, now: float) -> float | None:
    """How long jobs that have ended waited for their start; None if nobody knows.

    The start is by the clock of the worker's host, and is said by the process in which functions run. So the time until
    now by the server's clock, less what the jobs took, is the most that it can be.
    """
    batch = reading.batch
    if reading.queued is None:
        return None
    last = batch.results[-1]
    most = now - reading.queued - max(0.0, last.offset + last.duration)
    wait = min(batch.started - reading.queued, most)
    return max(0.0, wait) if math.isfinite(wait) else None


def read_results(delivery: Delivery) -> Reading:
    """The results in a delivery, and what they ask of the record.

    Raises:
        WireError: the body is no ResultBatch, or is about jobs that no block has, or has numbers that make no sense.
        TooLarge: it is too large when decompressed.
    """
    message = delivery.message
    batch = codec.decode(dts_pb2.ResultBatch, message.body, message.content_encoding)
    _check(batch)
    _check_origin(batch, message.headers)
    body = codec.Encoded(message.body, message.content_encoding)
    if fail_what_is_not_json(batch):
        body = codec.encode(batch)
    by_status: dict[int, list[int]] = {status: [] for status in _STATUSES}
    try:
        for result in batch.results:
            by_status[result.status].append(result.index)
    except KeyError as error:
        raise WireError(f"a result has the unknown status {error}") from error
    told = [claim.index for claim in batch.claims] + [each.index for each in batch.progress]
    if max(map(max, filter(None, (*by_status.values(), batch.running, told))), default=0) >= MAX_BLOCK_SIZE:
        raise WireError(f"it is about a job with an index over {MAX_BLOCK_SIZE - 1}")
    if by_status[dts_pb2.RETRY]:  # a look at every result costs a fifth of the reading
        _check_counts(batch)
    retried = bitmap.from_indices(by_status[dts_pb2.RETRY])
    candidate = Candidate(
        batch.block,
        body.body,
        body.content_encoding,
        succeeded=bitmap.from_indices(by_status[dts_pb2.SUCCEEDED]),
        failed=bitmap.from_indices(by_status[dts_pb2.FAILED]),
        cancelled=bitmap.from_indices(by_status[dts_pb2.CANCELLED]),
        running=bitmap.from_indices(batch.running),
        stopped=retried,
        function=batch.function,
    )
    poisoned = poisoned_jobs(batch) if by_status[dts_pb2.FAILED] else 0
    queued = message.headers.get("queued")
    return Reading(batch, candidate, retried, poisoned, queued / 1000 if isinstance(queued, int) else None)


def _check(batch: dts_pb2.ResultBatch) -> None:
    """Make sure that a batch has nothing that cannot be kept, or passed on."""
    names = batch.run, batch.function, batch.worker, batch.version
    if split_job_id(batch.block) is None or max(map(len, names)) > sanitize.MAX_NAME:
        raise WireError("it does not say which block, run, function and worker it is of")
    if not all(0 < claim.seconds <= _MAX_LEASE and claim.fence <= _MAX_COUNT for claim in batch.claims):
        raise WireError(f"it claims a lease of no time or over {_MAX_LEASE} s, or under a fence over {_MAX_COUNT}")


def _check_origin(batch: dts_pb2.ResultBatch, headers: Mapping[str, str | int]) -> None:
    """Make sure that a batch is about the jobs that its worker was given.

    The worker copies the headers from the message of jobs, and its child, where functions run, makes the body.
    """
    for name, said in (("block", batch.block), ("run", batch.run), ("function", batch.function)):
        if headers.get(name, said) != said:
            raise WireError(f"it is about the {name} {said}, and its worker was given {headers[name]}")


def _check_counts(batch: dts_pb2.ResultBatch) -> None:
    """Make sure that what is counted on from one attempt to the next cannot overflow."""
    if any(max(result.attempt, result.kills, result.fence) > _MAX_COUNT for result in batch.results):
        raise WireError(f"it has a number of an attempt, of killed processes or a fence over {_MAX_COUNT}")


def _progress_of(batch: dts_pb2.ResultBatch) -> dict[str, bytes]:
    """How far running jobs are and what they have yielded, encoded, by block and index.

    What is no number that JSON can write, or no JSON, is left out: one job's nonsense must not spoil the others' event.
    """
    told = {}
    for each in batch.progress:
        if not (math.isfinite(each.done) and math.isfinite(each.total) and is_json_array(each.partials or b"[]")):
            logger.warning("what job %d of block %s tells of its progress cannot be told", each.index, batch.block)
            continue
        news = each.done, each.total, msgspec.Raw(each.partials or b"[]"), batch.version
        told[f"{batch.block}.{each.index}"] = msgspec.json.encode(news)
    return told


def _portions(progress: dict[str, bytes]) -> Iterator[str]:
    """Progress as events of a bounded size."""
    parts: list[str] = []
    size = 0
    for job, told in progress.items():
        part = f'"{job}":{told.decode()}'
        if parts and size + len(part) > _EVENT_BYTES:
            yield "{" + ",".join(parts) + "}"
            parts, size = [], 0
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield "{" + ",".join(parts) + "}"
