"""What the tasks of one run share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from dts.client.processors import DurableProcessor, ResultProcessor
from dts.client.rows import Results
from dts.client.run.ledger import Ledger
from dts.client.run.ledger_state import LedgerState
from dts.client.run.outstanding import Outstanding
from dts.client.run.progress import Progress
from dts.client.run.remote import RemoteRun
from dts.errors import RequestRefused
from dts.wire import dts_pb2

NOT_OPEN = "run_not_open"
"""The code of a refusal: the run is cancelled."""


@dataclass
class RunState:
    """A run under way. `changed` is set when there may be room to send, or something to collect.

    `cancelled` is whether somebody else has cancelled it, `stopping` whether nothing more is to be read. `blocks_sent`
    is how many blocks have a number, `cut_off` how many lines were cancelled. What was `resumed` is None for a new run;
    `unread` is whether sending ended before its input was compared as far as it was read the last time.
    """

    remote: RemoteRun
    progress: Progress
    processor: ResultProcessor
    ledger: Ledger | None
    resumed: LedgerState | None
    end_reading: Callable[[], None] = lambda: None
    outstanding: Outstanding = field(default_factory=Outstanding)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    replayed: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    blocks_sent: int = 0
    cut_off: int = 0
    all_sent: bool = False
    unread: bool = False
    cancelled: bool = False
    stopping: bool = False

    async def process(self, chunk: Sequence[Results]) -> None:
        """Hand results to the processor, and count them. The caller holds `writing`."""
        await self.processor.process(chunk)
        self.progress.succeeded += sum(len(each.succeeded) for each in chunk)
        self.progress.failed += sum(len(each.failed) for each in chunk)
        self.progress.arrived = time.monotonic()
        self.cut_off += sum(result.status == dts_pb2.CANCELLED for each in chunk for result in each.failed)
        for each in chunk:
            self.progress.note_durations(each.durations, each.lines)
            if self.progress.recorder is not None:
                self.progress.recorder.record(each.durations, len(each.failed))
            for result in each.failed:
                error = f"{result.error.type}: {result.error.message.partition(chr(10))[0][:100]}"
                self.progress.note_error(error, each.line(result))
        self.changed.set()

    async def commit(self, done: dict[int, int], local: Sequence[int] = ()) -> None:
        """Have on disk what was processed: the jobs `done` of each block, and lines that became no jobs."""
        if isinstance(self.processor, DurableProcessor):
            counts = self.progress.succeeded, self.progress.failed
            await self.processor.commit(done, local, counts)

    async def unless_cancelled(self, request: Awaitable[object]) -> bool:
        """Make a request that the server refuses once the run is cancelled; whether it did not. Then sending ends."""
        try:
            await request
        except RequestRefused as error:
            if error.code != NOT_OPEN:
                raise
            self.end_sending(cancelled=True)
            return False
        return True

    def end_sending(self, *, cancelled: bool) -> None:
        """Nothing more is read, and what was read and not sent is not sent: the run is cancelled, or left open."""
        self.cancelled = self.cancelled or cancelled
        self.stopping = True
        self.end_reading()
