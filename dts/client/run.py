"""One run: lines go out in blocks while results come in, until every line has its result.

Three tasks and a bounded number of uploads work side by side:

    read ─▶ batches ─▶ send ─▶ uploads of blocks (concurrent)
                                                              collect ─▶ the result processor ─▶ receipts

What is remembered of a block that was sent is small, and how many jobs, blocks and bytes of arguments may be
outstanding is bounded, so memory stays flat however long the input is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec

from dts.client.blocks import BlockCutter, CutBlock, SentBlock
from dts.client.components import Batch, DataSource
from dts.client.pace import Pace
from dts.client.processors import ResultProcessor
from dts.client.rows import Results, bad_lines, pieces
from dts.client.transport import MAX_ANSWER, Transport
from dts.errors import ClientError, DtsError, RequestRefused, RunCancelled, WireError
from dts.model import bitmap
from dts.wire import codec, dts_pb2

logger = logging.getLogger(__name__)

PROTOBUF = "application/x-protobuf"
LONG_POLL = 20.0  # seconds that the server may wait for results; at most 30
IDLE_LOOK = 20.0  # seconds without anything to send or to collect after which the server is asked about the run
MAX_OUTSTANDING_JOBS = 1_000_000
MAX_OUTSTANDING_BLOCKS = 8192  # 64 MB would be 8 kB each; measured below 1 kB
MAX_KEPT = 16 * 1024 * 1024  # bytes of arguments that are remembered for the rows
MAX_UPLOADING = 16 * 1024 * 1024  # bytes of blocks that are being uploaded at once, unless one alone has more
IDLE_FLUSH = 0.2  # seconds after which lines that wait for their block to fill are sent as they are

_FIRST_PAGE = 16  # results
_MAX_PAGE = 20_000  # results
_PAGE_GROWTH = 4  # times as many results as in the page before at most: the next ones may be larger
_PAGE_TARGET = 4 * 1024 * 1024  # bytes of a page of results, decompressed
_PAGE_SECONDS = 3.0  # seconds that a page of results may take on the line
_CHUNK = 1024 * 1024  # bytes of results, decompressed, that are handed over at once, unless one alone has more
_RECEIPT_SIZE = 40  # bytes of a receipt in a request at most
_MAX_FINISHED_POLLS = 3  # empty answers after the run has finished before missing results are given up
_NOT_OPEN = "run_not_open"
"""The code of a refusal: the run is cancelled."""

_ENDED = "run_ended"
"""The code of a refusal: the run has finished."""

_LEAVE_TIMEOUT = 5.0  # seconds to tell the server that the run is cancelled


@dataclass(slots=True)
class Progress:
    """How far a run is; changes while it goes on. Numbers are of lines unless they say otherwise.

    `lines` is how many were read so far, all of them once `all_read` is set. `cancelled` is whether the server was
    told to cancel the run, and said that it did; `ended` is whether it said that there was nothing left to cancel.
    """

    run: str = ""
    lines: int = 0
    succeeded: int = 0
    failed: int = 0
    all_read: bool = False
    cancelled: bool = False
    ended: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Lines that have their result."""
        return self.succeeded + self.failed

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return time.monotonic() - self.started


class _RunInfo(msgspec.Struct):
    """What the server says of a run that it opened."""

    id: str
    block_size: int
    max_body: int
    block_jobs: int | None = None

    def most_jobs(self, allowed: int | None) -> int:
        """How many jobs a block may have, as a server says that knows limits; up to as many as are numbered."""
        return self.block_size if allowed is None else max(1, min(allowed, self.block_size))


class _BlockInfo(msgspec.Struct):
    """What the server says of a block that it has stored: how many jobs the next one may have."""

    block_jobs: int | None = None


class _Stored(msgspec.Struct):
    """The answer to a block."""

    result: _BlockInfo


@dataclass(slots=True)
class _Outstanding:
    """Blocks that were sent and whose results have not all come, and what they add up to."""

    blocks: dict[int, SentBlock] = field(default_factory=dict)
    jobs: int = 0
    kept: int = 0

    @property
    def full(self) -> bool:
        return self.jobs >= MAX_OUTSTANDING_JOBS or len(self.blocks) >= MAX_OUTSTANDING_BLOCKS or self.kept >= MAX_KEPT

    def add(self, number: int, block: SentBlock) -> None:
        self.blocks[number] = block
        self.jobs += block.count
        self.kept += block.kept

    def forget(self, number: int) -> None:
        """No results will come for the block with that number."""
        if (block := self.blocks.pop(number, None)) is not None:
            self.jobs -= block.count
            self.kept -= block.kept

    def receive(self, number: int, jobs: int) -> tuple[SentBlock | None, int]:
        """The block with that number, and which of `jobs` are news. A block that is complete is forgotten."""
        block = self.blocks.get(number)
        if block is None:
            return None, 0
        fresh = block.receive(jobs)
        self.jobs -= fresh.bit_count()
        if block.complete:
            self.kept -= block.kept
            del self.blocks[number]
        return block, fresh


class RunSession:
    """Runs `function` over every line of `source`; `coroutines` is how many blocks are uploaded at once.

    `snooze_interval` is the pause in seconds between two requests for results, in which they can gather.
    """

    def __init__(
        self,
        transport: Transport,
        function: str,
        source: DataSource,
        processor: ResultProcessor,
        *,
        coroutines: int,
        snooze_interval: float,
        detach: bool,
        progress: Progress,
        notify: Callable[[str], None],
    ) -> None:
        self.progress = progress
        self._transport = transport
        self._function = function
        self._source = source
        self._processor = processor
        self._coroutines = coroutines
        self._snooze_interval = snooze_interval
        self._detach = detach
        self._notify = notify
        self._slots = asyncio.Semaphore(coroutines)
        self._pace = Pace(coroutines)
        self._batches: asyncio.Queue[Batch | None] = asyncio.Queue(maxsize=2)
        self._outstanding = _Outstanding()
        self._uploading = 0
        self._blocks_sent = 0
        self._all_sent = False
        self._changed = asyncio.Event()
        self._page_size = _FIRST_PAGE
        self._paused = False
        self._cancelled = False
        self._cut_off = 0  # lines that were cancelled
        self._finished_polls = 0

    async def run(self) -> None:
        """Do the whole run. When it fails or is interrupted, the run is cancelled on the server unless detached.

        When somebody else cancels it, nothing more is sent, and what the server had accepted gets its rows.

        Raises:
            RunCancelled: somebody else cancelled it.
            DtsError: it could not be done; what has been written until then is complete rows.
        """
        self._info = await self._open()
        self.progress.run = self._info.id
        try:
            await self._processor.begin()
            async with asyncio.TaskGroup() as group:
                self._reading = group.create_task(self._read(), name="read")
                group.create_task(self._send(), name="send")
                group.create_task(self._collect(), name="collect")
        except BaseExceptionGroup as errors:
            await self._leave()
            raise _first(errors) from None
        except BaseException:
            await self._leave()
            raise
        if self._cancelled or (self._cut_off and await self._was_cancelled()):
            raise self._cancellation()

    async def _was_cancelled(self) -> bool:
        """Whether the run is cancelled, and not only some of its jobs."""
        return bool((await self._transport.call("GET", self._path()))["state"] == "cancelled")

    def _cancellation(self) -> RunCancelled:
        self.progress.cancelled = True
        return RunCancelled(
            f"somebody else cancelled the run {self._info.id}: {self.progress.done} lines have a row, "
            f"{self._cut_off} of them as cancelled" + ("" if self.progress.all_read else "; the others were not run")
        )

    async def _open(self) -> _RunInfo:
        result = await self._transport.call("POST", "/runs/", {"function": self._function})
        try:
            return msgspec.convert(result, _RunInfo)
        except msgspec.ValidationError as error:
            raise ClientError(f"the server's answer to a new run is not understood: {error}") from error

    async def _leave(self) -> None:
        if self._detach:
            return
        try:
            await self._transport.call("DELETE", self._path(), timeout=_LEAVE_TIMEOUT, give_up_after=_LEAVE_TIMEOUT)
            self.progress.cancelled = True
        except (DtsError, asyncio.CancelledError) as error:
            self.progress.ended = isinstance(error, RequestRefused) and error.code == _ENDED
            logger.info("the run %s was not cancelled on the server: %s", self._info.id, error)

    def _path(self, rest: str = "") -> str:
        return f"/runs/{self._info.id}{rest}"

    # Out: lines to blocks to the server.

    async def _read(self) -> None:
        async with aclosing(self._source.batches(self._info.max_body)) as batches:
            async for batch in batches:
                await self._batches.put(batch)
        await self._batches.put(None)

    async def _send(self) -> None:
        self._cutter = cutter = BlockCutter(self._info.block_size, self._info.max_body)
        cutter.most = self._info.most_jobs(self._info.block_jobs)
        async with asyncio.TaskGroup() as uploads:
            reading = True
            while reading:
                batch, idle = await self._next_batch(flush_soon=cutter.pending)
                if self._cancelled:
                    break
                reading = batch is not None or idle
                if batch is not None:
                    cutter.add(batch)
                    self.progress.lines = cutter.lines_seen
                cutter.target = self._pace.target
                for block in cutter.cut(everything=batch is None):
                    await self._upload(uploads, block)
                await self._report_bad(cutter.take_bad())
            self.progress.all_read = not self._cancelled
        await self._unless_cancelled(self._transport.call("PATCH", self._path(), {"state": "closed"}))
        self._all_sent = True
        self._changed.set()

    async def _unless_cancelled(self, request: Awaitable[object]) -> bool:
        """Make a request that the server refuses once the run is cancelled; whether it did not. Then sending ends."""
        try:
            await request
        except RequestRefused as error:
            if error.code != _NOT_OPEN:
                raise
            self._end_sending()
            return False
        return True

    def _end_sending(self) -> None:
        """The run is cancelled: nothing more is read, and what was read is not sent."""
        self._cancelled = True
        self._reading.cancel()
        if self._batches.empty():  # somebody may wait for what will not come
            self._batches.put_nowait(None)

    async def _next_batch(self, *, flush_soon: bool) -> tuple[Batch | None, bool]:
        """The next batch, None at the end; or None and True when there is none for now and lines wait."""
        try:
            async with asyncio.timeout(IDLE_FLUSH if flush_soon else None):
                return await self._batches.get(), False
        except TimeoutError:
            return None, True

    async def _upload(self, uploads: asyncio.TaskGroup, cut: CutBlock) -> None:
        """Begin to upload a block, once there is room for it."""
        await self._slots.acquire()
        while self._outstanding.full or (self._uploading and self._uploading + cut.size > MAX_UPLOADING):
            self._changed.clear()
            await self._changed.wait()
        number = self._blocks_sent
        self._blocks_sent += 1
        self._uploading += cut.size
        sent = cut.to_sent(number, self._info.block_size, keep=self._processor.keep_arguments)
        self._outstanding.add(number, sent)
        uploads.create_task(self._put(number, self._encode(cut), cut.size), name=f"block {number}")

    def _encode(self, cut: CutBlock) -> codec.Encoded:
        """A block's body. Within one machine compressing it, a third of all the work here, would save nothing."""
        message = cut.to_message()
        return codec.Encoded(message.SerializeToString(), "") if self._transport.local else codec.encode(message)

    async def _put(self, number: int, encoded: codec.Encoded, size: int) -> None:
        headers = {"Content-Type": PROTOBUF}
        if encoded.content_encoding:
            headers["Content-Encoding"] = encoded.content_encoding
        path = self._path(f"/blocks/{number}")
        if not await self._unless_cancelled(self._store(path, encoded.body, headers, size)):
            self._outstanding.forget(number)
        self._uploading -= size
        self._slots.release()
        self._changed.set()

    async def _store(self, path: str, body: bytes, headers: Mapping[str, str], size: int) -> None:
        """Have a block stored, and cut the next ones as large as limits allow by now."""
        answer = await self._transport.request(
            "PUT", path, body=body, headers=headers, turn=partial(self._pace.turn, size)
        )
        self._cutter.target = self._pace.target
        with suppress(msgspec.MsgspecError):  # that of an earlier server
            self._cutter.most = self._info.most_jobs(msgspec.json.decode(answer.body, type=_Stored).result.block_jobs)

    async def _report_bad(self, bad: list[tuple[int, str]]) -> None:
        if bad:
            await self._processor.process([bad_lines(self._info.id, bad)])
            self.progress.failed += len(bad)

    # In: results from the server to the processor.

    async def _collect(self) -> None:
        while self._outstanding.blocks or not self._all_sent:
            if not self._outstanding.blocks:
                await self._wait_for_more()
                continue
            page, seconds = await self._next_page()
            cut_off = self._cut_off
            count = await self._take(page, seconds) if page.parts else await self._look_after()
            if self._cut_off > cut_off:
                await self._end_if_cancelled()
            if self._outstanding.blocks and count < self._page_size:
                await asyncio.sleep(self._snooze_interval)

    async def _wait_for_more(self) -> None:
        """Wait until there is something to collect. An input may be idle for ever: the run is looked at meanwhile."""
        self._changed.clear()
        try:
            async with asyncio.timeout(IDLE_LOOK):
                await self._changed.wait()
        except TimeoutError:
            await self._end_if_cancelled()

    async def _end_if_cancelled(self) -> None:
        """Learn of a cancellation that no request is refused for: none may follow for as long as the input is idle."""
        if not self._cancelled and not self._all_sent and await self._was_cancelled():
            self._end_sending()

    async def _next_page(self) -> tuple[dts_pb2.ResultPage, float]:
        """The next results, and how many seconds they took on the line."""
        answer = await self._transport.request(
            "GET",
            self._path("/results"),
            query={"max": self._page_size, "wait": f"{LONG_POLL:g}"},
            headers={"Accept": PROTOBUF},
            wait=LONG_POLL,
        )
        return codec.decode(dts_pb2.ResultPage, answer.body, max_size=MAX_ANSWER), answer.seconds

    async def _take(self, page: dts_pb2.ResultPage, seconds: float) -> int:
        """Hand a page's results over, then tell the server so; returns how many jobs the page was for.

        Few bytes of a page can be many when they are decompressed, so that is done for a little at a time.
        """
        count = jobs = size = held = 0
        arrived: list[Results] = []
        for part in page.parts:
            in_part = bitmap.from_bytes(part.jobs).bit_count()
            count += in_part
            if (unpacked := self._unpack(part, arrived)) is not None:
                jobs += in_part
                size += unpacked
                held += unpacked
            if held >= _CHUNK:
                await self._hand_over(arrived)
                held = 0
        await self._hand_over(arrived)
        await self._hand_back([part.receipt for part in page.parts])
        self._finished_polls = 0
        if jobs:
            fitting = int(min(_PAGE_TARGET / max(size / jobs, 1), jobs * _PAGE_SECONDS / max(seconds, 0.001)))
            self._page_size = max(1, min(fitting, self._page_size * _PAGE_GROWTH, _MAX_PAGE))
        return count

    async def _hand_over(self, arrived: list[Results]) -> None:
        """Give the processor what has arrived, and forget it."""
        chunk: list[Results] = []
        for piece in pieces(arrived, _CHUNK):
            chunk.append(piece)
            if sum(each.size for each in chunk) >= _CHUNK:
                await self._process(chunk)
                chunk = []
        if chunk:
            await self._process(chunk)
        arrived.clear()

    async def _process(self, chunk: list[Results]) -> None:
        await self._processor.process(chunk)
        self.progress.succeeded += sum(len(each.succeeded) for each in chunk)
        self.progress.failed += sum(len(each.failed) for each in chunk)
        self._cut_off += sum(result.status == dts_pb2.CANCELLED for each in chunk for result in each.failed)
        self._changed.set()

    async def _hand_back(self, receipts: list[str]) -> None:
        """Tell the server what is safe, in one request unless it takes very small ones only."""
        at_once = max(1, self._info.max_body // _RECEIPT_SIZE - 1)
        for first in range(0, len(receipts), at_once):
            await self._transport.call(
                "POST", self._path("/collected"), {"receipts": receipts[first : first + at_once]}
            )

    def _unpack(self, part: dts_pb2.ResultPart, arrived: list[Results]) -> int | None:
        """Add the results of a part that had not come before, if any, and return how many bytes the part had."""
        if part.block >= self._blocks_sent:
            raise WireError(f"the server has results for block {part.block}, which was not sent")
        block, fresh = self._outstanding.receive(part.block, bitmap.from_bytes(part.jobs))
        if block is None or not fresh:
            return None
        data = codec.decompress(part.body, part.content_encoding, max_size=MAX_ANSWER)
        batch = codec.decode(dts_pb2.ResultBatch, data, max_size=MAX_ANSWER)
        results: Sequence[dts_pb2.Result] = batch.results
        if len(batch.results) != fresh.bit_count():
            by_index = {each.index: each for each in batch.results}
            results = [by_index[index] for index in bitmap.indices(fresh) if index in by_index]
        unpacked = Results.split(self._info.id, block, batch, results, size=len(data))
        if len(unpacked.succeeded) + len(unpacked.failed) != fresh.bit_count():
            raise WireError(f"results are missing in part {part.receipt}")
        arrived.append(unpacked)
        return len(data)

    async def _look_after(self) -> int:
        """See why no results came: tell of a pause, and do not wait for ever for what will not come."""
        run = await self._transport.call("GET", self._path())
        if run["paused"] and not self._paused:
            self._notify(f"the run {self._info.id} is paused; waiting")
        self._paused = run["paused"]
        self._finished_polls = self._finished_polls + 1 if run["finished"] else 0
        if self._finished_polls >= _MAX_FINISHED_POLLS:
            raise ClientError(
                f"the run {self._info.id} is {run['state']} and has no more results on the server, "
                f"but {self._outstanding.jobs} lines have none"
            )
        return 0


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that the others followed from."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
