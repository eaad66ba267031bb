"""Out: lines to blocks to the server."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from functools import partial

from dts.client.components import Batch, DataSource, IterableComponent
from dts.client.rows import bad_lines
from dts.client.run.blocks import BlockCutter, CutBlock
from dts.client.run.pace import Pace
from dts.client.run.state import RunState
from dts.errors import InputChanged, RequestRefused
from dts.wire import codec

MAX_UPLOADING = 16 * 1024 * 1024  # bytes of blocks that are being uploaded at once, unless one alone has more
_TOO_LARGE = 413  # with a code of DTS it is the server's own
IDLE_FLUSH = 0.2  # seconds after which lines that wait for their block to fill are sent as they are


class Sender:
    """Reads lines from `source` and sends them in blocks, `coroutines` of which are uploaded at once.

    With `keep_open` the run is not closed at the end; with `forget` the results of its blocks are not expected. The
    keyword argument `id_field` is not sent.
    """

    def __init__(
        self,
        state: RunState,
        source: DataSource,
        *,
        coroutines: int,
        keep_open: bool = False,
        forget: bool = False,
        id_field: str = "",
    ) -> None:
        self._id_field = id_field
        self._state = state
        self._keep_open = keep_open
        self._forget = forget
        self._remote = state.remote
        self._source = source
        self._slots = asyncio.Semaphore(coroutines)
        self._pace = Pace(coroutines)
        self._batches: asyncio.Queue[Batch | None] = asyncio.Queue(maxsize=2)
        self._uploading = 0
        info, resumed = state.remote.info, state.resumed
        self._cutter = BlockCutter(info.block_size, info.max_body, resumed.blocks.values() if resumed else ())
        self._cutter.most = info.most_jobs(info.block_jobs)
        state.end_reading = self._end_reading

    async def read(self) -> None:
        """Read the input to its end, or until it is not read on."""
        self._reading = asyncio.current_task()
        async with aclosing(self._source.batches(self._remote.info.max_body)) as batches:
            async for batch in batches:
                await self._batches.put(batch)
        await self._batches.put(None)

    def skip_input(self) -> None:
        """The server has all lines of a run that is resumed: expect their results, and read nothing."""
        state = self._state
        assert state.resumed is not None
        self._source = IterableComponent(())
        self._cutter = BlockCutter(self._remote.info.block_size, self._remote.info.max_body)
        self._cutter.lines_seen = state.progress.lines = state.resumed.closed or 0
        for block in state.resumed.blocks.values():
            lines = block.lines.tolist()
            self._expect(CutBlock([b""] * len(lines), None, lines, 0, block))

    async def send(self) -> None:
        """Send all that is read, and say when that is all."""
        state, cutter = self._state, self._cutter
        async with asyncio.TaskGroup() as uploads:
            reading = True
            self._note_replayed()
            while reading:
                batch, idle = await self._next_batch(flush_soon=cutter.pending)
                if state.stopping:
                    break
                reading = batch is not None or idle
                if batch is not None:
                    cutter.add(batch)
                    state.progress.lines = cutter.lines_seen
                cutter.target = self._pace.target
                for block in cutter.cut(everything=batch is None and not (idle and cutter.replaying)):
                    self._check_fresh(block)
                    self._note_replayed()
                    await self._report_bad(cutter.take_bad())  # rows of later lines may have to wait for these
                    await self._upload(uploads, block)
                self._note_replayed()
                await self._report_bad(cutter.take_bad())
            state.progress.all_read = not state.stopping
        if not state.stopping and not self._keep_open:
            self._check_end()
            if state.ledger is not None:
                state.ledger.closed(cutter.lines_seen)
            await state.unless_cancelled(self._remote.close())
        state.unread = cutter.replaying
        state.all_sent = True
        state.replayed.set()
        state.changed.set()

    def _note_replayed(self) -> None:
        if not self._cutter.replaying:
            self._state.replayed.set()

    def _end_reading(self) -> None:
        if (reading := getattr(self, "_reading", None)) is not None:
            reading.cancel()
        if self._batches.empty():  # the sender may wait for what will not come
            self._batches.put_nowait(None)

    def _check_fresh(self, block: CutBlock) -> None:
        """A line that became no job before has its row: it must not get another one.

        Raises:
            InputChanged: a new block has such a line.
        """
        resumed = self._state.resumed
        if block.known is None and resumed is not None and (again := resumed.local.intersection(block.lines)):
            line = min(again)
            raise InputChanged(line, f"line {line} of the input could not be sent when the run began, and has its row")

    def _check_end(self) -> None:
        """A run that was closed has all its lines; more of them are no part of it.

        Raises:
            InputChanged: there are more.
        """
        closed = self._state.resumed.closed if self._state.resumed else None
        if closed is not None and self._cutter.lines_seen > closed:
            raise InputChanged(closed + 1, f"line {closed + 1} of the input is new: the run ended with line {closed}")

    async def _next_batch(self, *, flush_soon: bool) -> tuple[Batch | None, bool]:
        """The next batch, None at the end; or None and True when there is none for now and lines wait."""
        try:
            async with asyncio.timeout(IDLE_FLUSH if flush_soon else None):
                return await self._batches.get(), False
        except TimeoutError:
            return None, True

    async def _upload(self, uploads: asyncio.TaskGroup, cut: CutBlock) -> None:
        """Begin to upload a block, once there is room for it."""
        state = self._state
        if cut.known is not None and cut.known.stored:
            self._expect(cut)
            return
        await self._slots.acquire()
        while not self._cutter.replaying and self._has_no_room(cut):
            state.changed.clear()
            await state.changed.wait()
        number = self._expect(cut)
        self._uploading += cut.size
        uploads.create_task(self._put(number, cut), name=f"block {number}")

    def _has_no_room(self, cut: CutBlock) -> bool:
        has_room = getattr(self._state.processor, "has_room", None)
        if has_room is not None and not has_room(cut.lines[0]):
            return True
        return self._state.outstanding.full or bool(self._uploading and self._uploading + cut.size > MAX_UPLOADING)

    def _expect(self, cut: CutBlock) -> int:
        """Give the block its number, and expect its results."""
        state, known = self._state, cut.known
        number = state.blocks_sent if known is None else known.number
        state.blocks_sent = max(state.blocks_sent, number + 1)
        sent = cut.to_sent(number, self._remote.info.block_size, keep=state.processor.keep_arguments)
        if known is not None:
            sent.received = known.done | known.lost | known.moved
        if not state.outstanding.blocks:
            state.progress.arrived = time.monotonic()  # before this, nothing could come
        if number >= 0 and not sent.complete and not self._forget:
            state.outstanding.add(number, sent)
        return number

    async def _put(self, number: int, cut: CutBlock) -> None:
        await self._store(number, cut)
        self._cutter.target = self._pace.target
        self._uploading -= cut.size
        self._slots.release()
        self._state.changed.set()

    async def _store(self, number: int, cut: CutBlock) -> None:
        state, ledger = self._state, self._state.ledger
        encoded = self._encode(cut)
        if ledger is not None and cut.known is None:
            await ledger.block(number, cut.lines, cut.hashes())
        turn = partial(self._pace.turn, cut.size)
        try:
            accepted = await state.unless_cancelled(self._remote.store(number, encoded, turn, self._limit_blocks))
            if not accepted and not await self._remote.has_block(number):
                state.outstanding.refuse(number)
            elif ledger is not None:
                ledger.stored(number)
        except RequestRefused as error:
            if error.status != _TOO_LARGE or error.code:
                raise
            await self._store_in_halves(number, cut, len(encoded.body))

    async def _store_in_halves(self, number: int, cut: CutBlock, size: int) -> None:
        """A proxy takes no body of that size, though the server would: send the lines in smaller blocks."""
        state = self._state
        state.outstanding.forget(number)
        if state.ledger is not None:
            state.ledger.gave_up(number)
        if len(cut.lines) == 1:
            reason = f"a proxy on the way to the server takes no body of {size} bytes (HTTP 413): raise its limit"
            await self._report_bad([(cut.lines[0], reason)])
            return
        self._pace.limit(cut.size // 2)
        for half in cut.halves():
            await self._store(self._expect(half), half)

    def _limit_blocks(self, jobs: int) -> None:
        self._cutter.most = jobs

    def _encode(self, cut: CutBlock) -> codec.Encoded:
        """A block's body. Within one machine compressing it, a third of all the work here, would save nothing."""
        message = cut.to_message(self._id_field)
        return codec.Encoded(message.SerializeToString(), "") if self._remote.local else codec.encode(message)

    async def _report_bad(self, bad: list[tuple[int, str]]) -> None:
        state = self._state
        if state.resumed is not None:
            bad = [(line, reason) for line, reason in bad if line not in state.resumed.local]
        if bad:
            async with state.writing:
                await state.process([bad_lines(self._remote.id, bad)])
                await state.commit({}, [line for line, _ in bad])
