"""Timekeeper: keeps promises that others were kept from keeping, and those that were made for later.

- dispatch: publishes what servers left in the store, each share in its turn: see `publish.dispatcher`.
- fire: publishes delayed jobs that are due.
- schedules: submits the jobs of schedules that are due.
- follow: does what is to follow runs, as their results come and when they have finished.
- gate: publishes jobs that waited for others to end, as the limits `running` say.
- expire: queues jobs again whose lease has expired.
- overdue: ends jobs that were not started before their deadline.
- repair: publishes jobs again whose messages the broker has lost.
- finish: notes which runs have finished where a process died before it could.
- follow: does what is to follow the end of a run.
- retention: deletes runs that are kept no longer.
- sweep: ends the jobs of cancelled runs that their server did not get to.
- remind: tells workers what was cancelled while nobody could.
- bury: ends the jobs of dead-lettered messages, so that no job vanishes, and keeps the letters.
- forget: deletes slices that have fired long ago, what was noted of jobs that were cancelled long ago, and dead letters
  that are too old or too many.
- count: keeps what makes statistics cheap however many blocks there are.
- inform: tells workers that have just come what was cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress
from functools import partial

from dts.broker import Consumer, Event
from dts.errors import StoreUnavailable
from dts.server.attempts.delays import FORGET_AFTER, Firing
from dts.server.attempts.leases import requeue_expired
from dts.server.daemons._base import Daemon
from dts.server.dead.settle import DeadLetterSettler
from dts.server.ending import notices
from dts.server.ending.finished import FinishedRuns
from dts.server.ending.overdue import end_overdue
from dts.server.ending.retention import Retention
from dts.server.ending.sweep import sweep
from dts.server.lookup.catalogue import Catalogue
from dts.server.notify.runs import RunNotices
from dts.server.publish.dispatcher import Dispatcher
from dts.server.publish.gate import Gate
from dts.server.publish.repair import Again, Repair
from dts.server.unattended.follower import Follower
from dts.server.unattended.scheduler import Scheduler
from dts.wire.queues import DEAD, TOPIC_CANCELLED, TOPIC_CANCELLED_WHICH, TOPIC_GATED, TOPIC_RESULTS, end_of_answer

logger = logging.getLogger(__name__)

_LETTERS = 20  # dead letters that are taken at once
_SWEEP_INTERVAL = 5.0
_REMIND_INTERVAL = 5.0
_LONGEST_WORD = 64  # characters of a question about them
_NAMED = 100  # runs that are named in one event

_OVERDUE_INTERVAL = 2.0
_ADOPT_INTERVAL = 60.0
_FORGET_INTERVAL = 600.0
_EXPIRED_INTERVAL = 60.0
_EXPIRED_LIMIT = 1000  # documents that are deleted in one step
_FINISH_INTERVAL = 5.0
_FOLLOW_INTERVAL = 5.0  # where no event tells of results
_FOLLOW_PAUSE = 0.2  # seconds from one look to the next, however many events there are
_COUNT_INTERVAL = 10.0
_COUNT_STEPS = 20  # until the next time: half of the time at most
_COUNT_HELD = 30.0
"""Seconds for which others leave the counts alone. Several at once would do no harm, and no good."""

_FORGET_LIMIT = 500  # dead letters that are deleted in one step


class Timekeeper(Daemon):
    """Several may run at once: whatever they find, one of them claims."""

    async def _start(self) -> None:
        self._make_parts()
        self._start_duties()
        await self._start_letters()
        await self._start_events()

    def _make_parts(self) -> None:
        """Make what the duties below are done by."""
        self._catalogue = Catalogue(self._store)
        self._firing = Firing(self._store, self._broker, self._catalogue, self._settings.server)
        self._repair = Repair(
            Again(self._store, self._broker, self._catalogue, self._settings.server),
            self._settings.daemons.repair_after,
        )
        self._gate = Gate(self._store, self._broker, self._catalogue, self._settings.server)
        self._results = asyncio.Event()
        self._retention = Retention(self._store)
        self._scheduler = Scheduler(self._store, self._broker, self._catalogue)
        self._follower = Follower(self._store, self._broker, self._catalogue)
        self._finished = FinishedRuns(
            self._store, (self._follower.on_finished, RunNotices(self._store, self._settings).follow)
        )
        self._reminder = notices.Reminder(self._store, self._broker)
        self._me = uuid.uuid4().hex
        self._words: dict[str, None] = {}
        self._asked = asyncio.Event()

    def _start_duties(self) -> None:
        """Begin what is done again and again."""
        often = self._settings.daemons.relay_interval
        for name, seconds, duty, what in (
            ("fire", often, self._fire, "publish delayed jobs"),
            ("schedules", often, self._fire_schedules, "fire schedules"),
            ("follow", often, self._follow, "do what follows runs"),
            ("adopt", _ADOPT_INTERVAL, self._scheduler.adopt, "look for new schedules"),
            ("expire", often, self._expire, "look for expired leases"),
            ("overdue", _OVERDUE_INTERVAL, self._end_overdue, "look for deadlines"),
            ("repair", self._repair.interval, self._look_for_lost, "look for jobs that the broker has lost"),
            ("sweep", _SWEEP_INTERVAL, self._sweep, "sweep cancelled runs"),
            ("remind", _REMIND_INTERVAL, self._remind, "tell what was cancelled"),
            ("finish", _FINISH_INTERVAL, self._finish_left, "look for runs that have finished"),
            ("retention", self._settings.daemons.retention_interval, self._delete_old, "delete old runs"),
            ("count", _COUNT_INTERVAL, self._keep_counts, "keep the counts of jobs"),
            ("expired", _EXPIRED_INTERVAL, self._drop_expired, "delete expired documents"),
            ("forget", _FORGET_INTERVAL, self._forget, "forget what is over"),
        ):
            self._spawn(self._every(seconds, duty, what), f"timekeeper-{name}")

    async def _start_letters(self) -> None:
        """Begin to settle the dead letters of all brokers."""
        for broker in self._broker.parts:
            consumer = await broker.consume(DEAD, prefetch=_LETTERS)
            self._stack.push_async_callback(consumer.close)
            self._spawn(self._bury_all(consumer), "timekeeper-bury")

    async def _start_events(self) -> None:
        """Begin what goes by events: the dispatcher, the gate, what follows runs, questions of workers."""
        often = self._settings.daemons.relay_interval
        questions = await self._broker.subscribe([TOPIC_CANCELLED_WHICH])
        self._stack.push_async_callback(questions.close)
        self._spawn(
            self._consume_events(questions, self._note_question, "timekeeper-questions"), "timekeeper-questions"
        )
        self._spawn(self._inform(), "timekeeper-inform")
        dispatcher = Dispatcher(self._store, self._broker, self._catalogue, self._settings.server, interval=often)
        dispatcher.failed = self.failed
        await dispatcher.start()
        self._stack.push_async_callback(dispatcher.stop)
        events = await self._broker.subscribe([TOPIC_RESULTS, TOPIC_GATED])
        self._stack.push_async_callback(events.close)
        self._stack.push_async_callback(self._leave_gate)
        self._spawn(
            self._consume_events(events, self._note_results, "timekeeper-gate-events"), "timekeeper-gate-events"
        )
        self._spawn(self._follow_up(), "timekeeper-follow")
        self._spawn(self._keep_gate(often), "timekeeper-gate")
        news = await self._broker.subscribe([TOPIC_RESULTS, TOPIC_CANCELLED])
        self._stack.push_async_callback(news.close)
        self._spawn(self._consume_events(news, self._follower.on_event, "timekeeper-news"), "timekeeper-news")

    async def _finish_left(self) -> None:
        await notices.announce_results(self._broker, await self._finished.finish_left())

    async def _note_results(self, event: Event) -> None:
        self._gate.on_event(event)
        self._results.set()

    async def _follow_up(self) -> None:
        while True:
            self._results.clear()
            await self._retry_until_available(self._finished.follow_up, "do what follows the end of runs")
            await asyncio.sleep(_FOLLOW_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(_FOLLOW_INTERVAL):
                    await self._results.wait()

    async def _delete_old(self) -> None:
        await self._retention.sweep()

    async def _fire(self) -> None:
        await self._firing.fire()

    async def _follow(self) -> None:
        await self._follower.follow()

    async def _fire_schedules(self) -> None:
        await self._scheduler.fire_due()

    async def _keep_gate(self, seconds: float) -> None:
        while True:
            await self._retry_until_available(self._gate.release, "let jobs go that wait for others")
            await self._gate.wait(seconds)

    async def _leave_gate(self) -> None:
        with suppress(StoreUnavailable):  # others get it in some seconds
            await self._gate.close()

    async def _expire(self) -> None:
        if step := await self._store.follow_clock():
            logger.warning(
                "the clock of this machine was set %s by %.0f s: delays and leases go on as if it had not been",
                "forward" if step > 0 else "back",
                abs(step),
            )
        await requeue_expired(self._store)

    async def _end_overdue(self) -> None:
        if runs := await end_overdue(self._store):
            await self._broker.broadcast(TOPIC_RESULTS, " ".join(sorted(runs)[:_NAMED]))

    async def _look_for_lost(self) -> None:
        await self._repair.look()

    async def _sweep(self) -> None:
        # What has been due for less time is on its way: whoever brought it publishes it, or ends it.
        await sweep(self._store, self._broker, due_before=time.time() - _SWEEP_INTERVAL)

    async def _remind(self) -> None:
        await self._reminder.remind()

    async def _keep_counts(self) -> None:
        for _ in range(_COUNT_STEPS):
            if not await self._store.acquire("counts", self._me, seconds=_COUNT_HELD):
                return
            if not await self._store.keep_counts():
                return

    async def _drop_expired(self) -> None:
        dropped = _EXPIRED_LIMIT
        while dropped == _EXPIRED_LIMIT:
            dropped = await self._store.drop_expired_documents(limit=_EXPIRED_LIMIT)

    async def _forget(self) -> None:
        await self._store.recheck_holds()
        await self._store.forget_delayed(time.time() - FORGET_AFTER)
        await self._store.forget_cancelled(self._store.now() - notices.REMEMBER)
        keep, seconds = self._settings.daemons.keep_dead, self._settings.daemons.keep_dead_for
        forgotten = 0
        while count := await self._store.forget_dead_letters(
            before=time.time() - seconds, keep=keep, limit=_FORGET_LIMIT
        ):
            forgotten += count
        if forgotten:
            logger.warning(
                "deleted the %d oldest dead letters: keep_dead is %d, keep_dead_for %.0f s", forgotten, keep, seconds
            )

    async def _bury_all(self, consumer: Consumer) -> None:
        settler = DeadLetterSettler(self._store, self._broker, self._catalogue, self._settings.server)
        while deliveries := await consumer.receive(_LETTERS):
            for delivery in deliveries:
                await self._retry_until_available(partial(settler.settle, delivery), "record dead letters")
            await consumer.ack(deliveries)

    def _note_question(self, question: Event) -> None:
        if len(question.payload) <= _LONGEST_WORD:
            self._words[question.payload] = None
            self._asked.set()

    async def _inform(self) -> None:
        """Answer all who ask at the same time at once, as a whole fleet does when its broker was away."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            words, self._words = self._words, {}
            ids = await self._retry_until_available(
                partial(notices.recently_cancelled, self._store), "read what was cancelled"
            )
            await notices.announce_cancelled(self._broker, [*ids, *map(end_of_answer, words)])
