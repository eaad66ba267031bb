"""Keeps what the worker knows of cancelled runs and jobs complete: listens, and asks when it may have missed some."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from dts.broker import Broker, Event, Subscription
from dts.model import new_id
from dts.runtime.backoff import Backoff
from dts.runtime.service import Service
from dts.runtime.tasks import wait_first
from dts.wire.queues import TOPIC_CANCELLED, TOPIC_CANCELLED_WHICH, end_of_answer
from dts.worker.queues.cancellations import Cancellations

logger = logging.getLogger(__name__)

_AGAIN, _AGAIN_MOST = 0.2, 1.0
"""Seconds until the question is repeated, doubled each time: the timekeeper may be starting just now."""

_AGAIN_SELDOM = 10.0
"""Seconds until the question is repeated when the worker has begun to work without an answer."""

_QUIET = 5.0
"""Seconds without an answer that are not logged: server and worker may have been started together."""


class CancellationSync(Service):
    """Learns which runs and jobs are cancelled; asks the timekeeper at its start, and after events were lost.

    `patience` is how many seconds it waits for an answer before the worker works without one. `on_news` is called with
    the runs of which something new was learnt, `on_change` whenever `informed` has changed.
    """

    def __init__(
        self,
        broker: Broker,
        patience: float,
        on_news: Callable[[set[str]], None],
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__()
        self.known = Cancellations()
        """What is known to be cancelled."""
        self.patience = patience
        self._broker, self._on_news, self._on_change = broker, on_news, on_change
        self._events: Subscription
        self._informed = False
        self._question = ""
        self._answered = asyncio.Event()

    @property
    def informed(self) -> bool:
        """Whether all is known, or no timekeeper has answered in time; False from the moment when events are lost."""
        return self._informed and not self._events.missed.is_set()

    async def _start(self) -> None:
        self._events = await self._broker.subscribe([TOPIC_CANCELLED])
        await self._stack.enter_async_context(self._events)
        self._spawn(self._consume_events(self._events, self._learn, "cancellations"), "cancellations")
        self._spawn(self._keep_informed(), "cancellation sync")

    def _learn(self, event: Event) -> None:
        runs = self.known.learn(event.payload)
        if self._question and end_of_answer(self._question) in event.payload:
            self._answered.set()
        self._on_news(runs)

    async def _keep_informed(self) -> None:
        missed = self._events.missed
        while True:
            # An answer to what was asked before is not complete: what was cancelled since then may have been missed.
            await self._events.listening()
            missed.clear()
            self._question = new_id()
            self._answered.clear()
            await self._wait_for_answer()
            if missed.is_set():
                continue
            self._informed = True
            await self._on_change()
            await self._ask(_AGAIN_SELDOM, math.inf)
            await missed.wait()
            self._informed = False
            await self._on_change()

    async def _wait_for_answer(self) -> None:
        """Ask until there is an answer, patience is at its end, or the answer would not be complete any more."""
        missed = self._events.missed
        quiet = min(_QUIET, self.patience)
        if await self._ask(_AGAIN_MOST, quiet) or missed.is_set():
            return
        if rest := self.patience - quiet:
            logger.warning("taking no jobs until the timekeeper says which are cancelled, for %g s at most", rest)
            if await self._ask(_AGAIN_MOST, rest):
                logger.info("the timekeeper has said which jobs are cancelled: taking jobs")
                return
        if self.patience and not missed.is_set():
            logger.warning(
                "no timekeeper has said within %g s which runs and jobs are cancelled: taking jobs all the same;"
                " cancelled ones are stopped when a timekeeper reports them. Is one running?",
                self.patience,
            )

    async def _ask(self, most: float, seconds: float) -> bool:
        """Ask every `most` seconds or sooner, until there is an answer or events were missed; whether there is one."""
        clock = asyncio.get_running_loop().time
        deadline, backoff = clock() + seconds, Backoff(_AGAIN, most)
        missed = self._events.missed
        while not self._answered.is_set() and not missed.is_set() and (left := deadline - clock()) > 0:
            await self._broker.broadcast(TOPIC_CANCELLED_WHICH, self._question)
            await wait_first(self._answered, missed, timeout=min(backoff.next_pause(), left))
        return self._answered.is_set()
