"""In: results from the server to the processor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from dts.client.rows import Results, pieces
from dts.client.run.state import RunState
from dts.client.transport import MAX_ANSWER
from dts.errors import ClientError, WireError
from dts.model import bitmap
from dts.wire import codec, dts_pb2

IDLE_LOOK = 20.0  # seconds without anything to send or to collect after which the server is asked about the run

_FIRST_PAGE = 16  # results
_MAX_PAGE = 20_000  # results
_PAGE_GROWTH = 4  # times as many results as in the page before at most: the next ones may be larger
_PAGE_TARGET = 4 * 1024 * 1024  # bytes of a page of results, decompressed
_PAGE_SECONDS = 3.0  # seconds that a page of results may take on the line
_CHUNK = 1024 * 1024  # bytes of results, decompressed, that are handed over at once, unless one alone has more
_MAX_FINISHED_POLLS = 3  # empty answers after the run has finished before missing results are given up


class Collector:
    """Collects results until every block that was sent has all of its.

    `snooze_interval` is the pause in seconds between two requests for results, in which they can gather. Blocks that
    another client sends after this one has `attached` to its run are left to that one. With `rereads` results that
    another client has collected are read from their blocks.
    """

    def __init__(
        self,
        state: RunState,
        *,
        snooze_interval: float,
        notify: Callable[[str], None],
        attached: bool = False,
        rereads: bool = True,
    ) -> None:
        self._state = state
        self._remote = state.remote
        self._outstanding = state.outstanding
        self._snooze_interval = snooze_interval
        self._notify = notify
        self._page_size = _FIRST_PAGE
        self._attached = attached
        self._rereads = rereads
        self._foreign = 0  # results in the last page of blocks that are left to others
        self._paused = False
        self._finished_polls = 0

    async def collect(self, *, again: bool = False) -> None:
        """Collect until all was sent and has come. A resumed run's input is compared with what it was before.

        With `again` what was collected before is read once more.
        """
        state = self._state
        await state.replayed.wait()
        if state.unread:
            return  # a page may have results of blocks whose lines are not known yet: the server keeps them
        if again:
            for number in list(self._outstanding.numbers):
                await self._take(await self._remote.block_results(number), 0.0)
        while self._outstanding.blocks or not state.all_sent:
            if not self._outstanding.blocks:
                await self._wait_for_more()
                continue
            page, seconds = await self._remote.results(self._page_size + self._foreign)
            self._leave_foreign(page)
            cut_off = state.cut_off
            count = await self._take(page, seconds) if page.parts else await self._look_after()
            if state.cut_off > cut_off:
                await self._end_if_cancelled()
            if self._outstanding.blocks and (self._foreign or count < self._page_size):
                await asyncio.sleep(self._snooze_interval)

    def _leave_foreign(self, page: dts_pb2.ResultPage) -> None:
        """Take results of blocks that are left to others off the page, so that they are not acknowledged."""
        if not self._attached:
            return
        foreign = [index for index, part in enumerate(page.parts) if part.block >= self._state.blocks_sent]
        self._foreign = sum(bitmap.from_bytes(page.parts[index].jobs).bit_count() for index in foreign)
        for index in reversed(foreign):
            del page.parts[index]

    async def was_cancelled(self) -> bool:
        """Whether the run is cancelled, and not only some of its jobs."""
        return bool((await self._remote.view())["state"] == "cancelled")

    async def _wait_for_more(self) -> None:
        """Wait until there is something to collect. An input may be idle for ever: the run is looked at meanwhile."""
        self._state.changed.clear()
        try:
            async with asyncio.timeout(IDLE_LOOK):
                await self._state.changed.wait()
        except TimeoutError:
            await self._end_if_cancelled()

    async def _end_if_cancelled(self) -> None:
        """Learn of a cancellation that no request is refused for: none may follow for as long as the input is idle."""
        state = self._state
        if not state.cancelled and not state.all_sent and await self.was_cancelled():
            state.end_sending(cancelled=True)

    async def _take(self, page: dts_pb2.ResultPage, seconds: float) -> int:
        """Hand over a page's results, commit them (fsync if the processor is durable), then acknowledge the receipts.

        Returns how many jobs the page was for.

        Few bytes of a page can be many when they are decompressed, so that is done for a little at a time.
        """
        count = jobs = size = held = 0
        arrived: list[Results] = []
        done: dict[int, int] = {}
        async with self._state.writing:
            for part in page.parts:
                in_part = bitmap.from_bytes(part.jobs).bit_count()
                count += in_part
                if (unpacked := self._unpack(part, arrived, done)) is not None:
                    jobs += in_part
                    size += unpacked
                    held += unpacked
                if held >= _CHUNK:
                    await self._hand_over(arrived)
                    held = 0
            await self._hand_over(arrived)
            await self._state.commit(done)
        await self._remote.collected([part.receipt for part in page.parts])
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
                await self._state.process(chunk)
                chunk = []
        if chunk:
            await self._state.process(chunk)
        arrived.clear()

    def _unpack(self, part: dts_pb2.ResultPart, arrived: list[Results], done: dict[int, int]) -> int | None:
        """Add the results of a part that had not come before, if any, and return how many bytes the part had."""
        if part.block >= self._state.blocks_sent:
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
        unpacked = Results.split(self._remote.id, block, batch, results, size=len(data))
        if len(unpacked.succeeded) + len(unpacked.failed) != fresh.bit_count():
            raise WireError(f"results are missing in part {part.receipt}")
        arrived.append(unpacked)
        done[part.block] = done.get(part.block, 0) | fresh
        return len(data)

    async def _look_after(self) -> int:
        """Find out why no results came: report a pause, and read what another client has collected.

        Raises:
            ClientError: the run has finished, and results are missing.
        """
        run = await self._remote.view()
        if run["paused"] and not self._paused:
            self._notify(f"the run {self._remote.id} is paused; waiting")
        self._paused = run["paused"]
        if self._rereads and _all_ended(run["statistics"]):
            await self._reread()
        if not self._outstanding.blocks:
            return 0
        self._finished_polls = self._finished_polls + 1 if run["finished"] else 0
        if self._finished_polls >= _MAX_FINISHED_POLLS:
            raise ClientError(
                f"the run {self._remote.id} is {run['state']} and has no more results on the server, "
                f"but {self._outstanding.jobs} lines have none; `attach --again` has those that were collected before"
            )
        return 0

    async def _reread(self) -> None:
        """Read results of blocks whose jobs have all ended: another client has collected them, and this one lacks them.

        A client that attaches to a run collects beside the one that sends it, and each result is given to one of them.
        """
        if not (numbers := self._outstanding.numbers):
            return  # the last one was refused while its results were waited for
        for stored in await self._remote.blocks(first=min(numbers)):
            if stored.ended == stored.jobs and stored.block in self._outstanding.blocks:
                await self._take(await self._remote.block_results(stored.block), 0.0)


def _all_ended(counts: Mapping[str, int]) -> bool:
    """Whether every job that the server has of a run has ended."""
    return counts["succeeded"] + counts["failed"] + counts["cancelled"] == counts["total"]
