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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dts.client.components import DataSource
from dts.client.processors import ResultProcessor
from dts.client.run.collect import Collector
from dts.client.run.ledger import Ledger
from dts.client.run.ledger_state import NEW, Header, LedgerState, forget_run
from dts.client.run.outstanding import MAX_OUTSTANDING_JOBS
from dts.client.run.progress import Progress, Recorder
from dts.client.run.remote import RemoteRun, RunInfo
from dts.client.run.send import Sender
from dts.client.run.state import RunState
from dts.client.run.watch import Watch
from dts.client.transport import Transport
from dts.errors import DtsError, ReaderGone, RequestRefused, RunCancelled

logger = logging.getLogger(__name__)

_ENDED = "run_ended"
"""The code of a refusal: the run has finished."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a run is: a function over the lines of a source, whose results a processor takes.

    `options` is what it asks of attempts. With a `ledger` it can be resumed, where `resumed` says how far it was, and
    `settings` is what must not have changed then. `outputs` are the names of OUTFILE and errfile. The source of a
    resumed run is only read from its beginning if it can be (`rereadable`). With `detach` nothing is collected. A run
    that is `attached` to is another client's: it is not closed; with `again` what was collected before is read, too;
    with `rereads` what another client collects meanwhile.
    One to `keep` is not cancelled, whatever happens. With `watch` the server is asked now and then how far it is, and
    why when no results come. A `recorder` takes what results say of time. The keyword argument
    `id_field` is the line's own name, which the function does not get.
    """

    function: str
    source: DataSource
    processor: ResultProcessor
    options: Mapping[str, Any] | None = None
    ledger: Ledger | None = None
    resumed: LedgerState | None = None
    settings: Mapping[str, Any] | None = None
    outputs: tuple[str | None, str | None] = (None, None)
    rereadable: bool = True
    detach: bool = False
    attached: bool = False
    again: bool = False
    rereads: bool = True
    keep: bool = False
    watch: bool = False
    recorder: Recorder | None = None
    id_field: str = ""


class RunSession:
    """Does a run; `coroutines` is how many blocks are uploaded at once.

    `snooze_interval` is the pause in seconds between two requests for results, in which they can gather. With `detach`
    the run is not cancelled on the server when it is interrupted.
    """

    def __init__(
        self,
        transport: Transport,
        spec: RunSpec,
        *,
        coroutines: int,
        snooze_interval: float,
        detach: bool,
        progress: Progress,
        notify: Callable[[str], None],
    ) -> None:
        self.progress = progress
        self._transport = transport
        self._spec = spec
        self._coroutines = coroutines
        self._snooze_interval = snooze_interval
        self._detach = detach
        self._notify = notify
        self._state: RunState | None = None
        self._stopping = False

    async def run(self) -> None:
        """Do the whole run. When it fails or is interrupted, the run is cancelled on the server unless detached.

        When somebody else cancels it, nothing more is sent, and what the server had accepted gets its rows.

        Raises:
            RunCancelled: somebody else cancelled it.
            InputChanged: it is resumed over an input that is another one.
            DtsError: it could not be done; what has been written until then is complete rows.
        """
        state = self._state = await self._begin()
        try:
            await state.processor.begin()
            collector = await self._work(state)
        except BaseExceptionGroup as errors:
            error = _first(errors)
            await self._leave(state, error)
            raise error from None
        except BaseException as error:
            await self._leave(state, error)
            raise
        if state.cancelled or (state.cut_off and await collector.was_cancelled()):
            raise self._cancellation(state)
        if state.ledger is not None and not state.stopping and not self._spec.detach:
            state.ledger.finished()
        self.progress.stopped = state.stopping

    def stop(self) -> None:
        """Read and send no more; what is under way is collected, and the run is left open."""
        self._stopping = True
        if self._state is not None:
            self._state.end_sending(cancelled=False)

    async def _work(self, state: RunState) -> Collector:
        spec = self._spec
        keep_open, forget = spec.attached, spec.detach
        sender = Sender(
            state,
            spec.source,
            coroutines=self._coroutines,
            keep_open=keep_open,
            forget=forget,
            id_field=spec.id_field,
        )
        needless = spec.attached or not (spec.rereadable or state.processor.keep_arguments)
        if state.resumed is not None and state.resumed.all_stored and needless:
            sender.skip_input()
        collector = Collector(
            state,
            snooze_interval=self._snooze_interval,
            notify=self._notify,
            attached=spec.attached,
            rereads=spec.rereads,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(sender.read(), name="read")
            group.create_task(sender.send(), name="send")
            if not spec.detach:
                collecting = group.create_task(collector.collect(again=spec.again), name="collect")
                if spec.watch:
                    watching = group.create_task(Watch(state, self._notify).watch(), name="watch")
                    collecting.add_done_callback(lambda _: watching.cancel())
            if self._stopping:
                await asyncio.sleep(0)  # until they have begun
                state.end_sending(cancelled=False)
        return collector

    async def _begin(self) -> RunState:
        """Open the run, or find the one that is resumed."""
        spec, resumed = self._spec, self._spec.resumed
        remote = None if resumed is None or resumed.header.id == NEW else await self._find(resumed)
        if remote is None:
            remote = await RemoteRun.open(self._transport, spec.function, spec.options)
        self.progress.run = remote.id
        if spec.ledger is not None:
            if resumed is None:
                spec.ledger.begin(self._header(remote.info))
            else:
                resumed.header = self._header(remote.info)
                spec.ledger.reopen(resumed, spec.outputs)
        state = RunState(remote, self.progress, spec.processor, spec.ledger, resumed)
        state.outstanding.most_jobs = getattr(spec.processor, "most_outstanding", MAX_OUTSTANDING_JOBS)
        if resumed is not None:
            state.blocks_sent = max((block.number + 1 for block in resumed.blocks.values()), default=0)
            state.blocks_sent = max(0, state.blocks_sent)
            self.progress.succeeded, self.progress.failed = resumed.succeeded, resumed.failed
            self.progress.resumed = self.progress.done
        return state

    def _header(self, info: RunInfo) -> Header:
        url = self._transport.server_url
        settings = dict(self._spec.settings or {})
        return Header(info.id, url, self._spec.function, info.block_size, info.max_body, settings)

    async def _find(self, resumed: LedgerState) -> RemoteRun | None:
        """The run that is resumed, None if the server has removed it."""
        header = resumed.header
        remote = RemoteRun(self._transport, RunInfo(header.id, header.block_size, header.max_body))
        try:
            view = await remote.view()
        except RequestRefused as error:
            if error.status != 404:
                raise
            if header.server != self._transport.server_url:
                raise RequestRefused(
                    f"{self._transport.server_url} has no run {header.id}: it was begun at {header.server}", status=404
                ) from error
            self._begin_another(resumed, f"the server has no run {header.id} any more")
            return None
        if self._spec.attached:
            return remote
        if view["state"] == "cancelled":
            raise RunCancelled(
                f"the run {header.id} was cancelled: --retry-failed runs again what has failed, --overwrite everything"
            )
        if view["state"] != "open" and resumed.lost_lines:
            self._begin_another(resumed, f"rows are missing, and the run {header.id} takes no more lines")
            return None
        return remote

    def _begin_another(self, resumed: LedgerState, reason: str) -> None:
        self._notify(f"{reason}: lines without a row go into a new run")
        forget_run(resumed)

    def _cancellation(self, state: RunState) -> RunCancelled:
        self.progress.cancelled = True
        return RunCancelled(
            f"somebody else cancelled the run {state.remote.id}: {self.progress.done} lines have a row, "
            f"{state.cut_off} of them as cancelled" + ("" if self.progress.all_read else "; the others were not run")
        )

    async def _leave(self, state: RunState, error: BaseException) -> None:
        """Cancel the run, unless it is to go on; one whose rows nobody reads any more (`| head`) is not."""
        if self._spec.keep or (self._detach and not isinstance(error, ReaderGone)):
            return
        try:
            await state.remote.cancel()
            self.progress.cancelled = True
        except (DtsError, asyncio.CancelledError) as failure:
            self.progress.ended = isinstance(failure, RequestRefused) and failure.code == _ENDED
            logger.info("the run %s was not cancelled on the server: %s", state.remote.id, failure)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that the others followed from."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
