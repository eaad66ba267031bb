"""Which daemons are at work, wherever they run: asked by an event, answered by an event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from dts.broker import Broker, Event
from dts.runtime.service import Service
from dts.wire.queues import TOPIC_DAEMONS, TOPIC_DAEMONS_WHICH

_PATIENCE = 1.0  # seconds that answers are waited for
_ASKED = 2  # times, since an event may be lost


class Presence(Service):
    """Answers for the daemons of this process, given by name: with those that have not died."""

    def __init__(self, broker: Broker, daemons: Mapping[str, Service]) -> None:
        super().__init__()
        self._broker = broker
        self._daemons = daemons

    async def _start(self) -> None:
        questions = await self._broker.subscribe([TOPIC_DAEMONS_WHICH])
        self._stack.push_async_callback(questions.close)
        self._spawn(self._consume_events(questions, self._answer, "presence"), "presence")

    async def _answer(self, _: Event) -> None:
        alive = [name for name, daemon in self._daemons.items() if not daemon.failed.is_set()]
        await self._broker.broadcast(TOPIC_DAEMONS, " ".join(alive))


async def daemons_present(broker: Broker, wanted: frozenset[str]) -> frozenset[str]:
    """Those of the daemons that say that they are at work, in whatever process; all of them, or after two seconds."""
    present: set[str] = set()
    answers = await broker.subscribe([TOPIC_DAEMONS])
    async with answers:
        for _ in range(_ASKED):
            await broker.broadcast(TOPIC_DAEMONS_WHICH, "")
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    while not wanted <= present and (answer := await answers.get()) is not None:
                        present.update(answer.payload.split())
            if wanted <= present:
                break
    return wanted & present
