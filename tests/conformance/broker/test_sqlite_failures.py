"""What can go wrong with a queue file, and with the processes that share it."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dts.broker import Broker, Message, open_broker
from dts.broker.sqlite.pipe import ProcessPipe
from dts.errors import BrokerUnavailable, ConfigError
from dts.store import open_store
from tests.conformance.broker.helpers import bodies, depth_becomes, messages, nothing_comes, numbered, take
from tests.conformance.broker.peer import Peer
from tests.services.waiting import within

StartPeer = Callable[..., Awaitable[Peer]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the queue file is going to be, in a folder that is not there yet."""
    return tmp_path / "var" / "queue.db"


@pytest.fixture
async def broker(path: Path) -> AsyncIterator[Broker]:
    """A broker on that file, with the default lease."""
    async with open_broker(f"sqlite:///{path}") as started:
        yield started


async def test_a_relative_path_starts_at_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_broker("sqlite:///deep/er/queue.db") as broker:
        await broker.publish(queue, messages("here"))
    assert (tmp_path / "deep" / "er" / "queue.db").exists()


@pytest.fixture
def masked() -> Iterator[None]:
    """Put the umask back."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("masked")
@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o640), (0o002, 0o660), (0, 0o660)])
async def test_a_queue_file_and_its_pipes_are_shared_with_the_group_as_the_umask_says(
    path: Path, queue: str, mask: int, mode: int
) -> None:
    os.umask(mask)
    async with open_broker(f"sqlite:///{path}") as broker, await broker.consume(queue, prefetch=1):
        await broker.publish(queue, messages("private"))
        found = [each for each in path.parent.rglob("*") if not each.is_dir()]
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in found}
    assert {path.name, f"{path.name}-wal"} < modes.keys()
    assert any(name.endswith(".fifo") for name in modes)
    assert set(modes.values()) == {mode}, modes


async def test_a_publish_while_another_process_writes_for_long_raises_by_its_deadline(
    broker: Broker, path: Path, queue: str
) -> None:
    await broker.publish(queue, messages("before"))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    with pytest.raises(BrokerUnavailable, match="another process is writing"):
        await broker.publish(queue, messages("in vain"), timeout=0.2)
    patient = asyncio.create_task(broker.publish(queue, messages("patient")))
    await asyncio.sleep(0)
    blocker.rollback()
    blocker.close()

    await patient
    async with await broker.consume(queue, prefetch=5) as consumer:
        assert bodies(await take(consumer, 2)) == ["before", "patient"]
        assert await nothing_comes(consumer)


async def test_an_ack_while_another_process_writes_for_long_is_done_later(
    broker: Broker, path: Path, queue: str
) -> None:
    await broker.publish(queue, numbered(2))
    async with await broker.consume(queue, prefetch=2) as consumer:
        first, second = await take(consumer, 2)
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consumer.ack([first]), 0.1)
        blocker.rollback()
        blocker.close()

        await consumer.nack([second])
        assert bodies(await take(consumer, 1)) == ["m-1"]
        assert await nothing_comes(consumer)


async def test_a_full_disk_is_reported_and_survived(broker: Broker, path: Path, queue: str) -> None:
    await broker.publish(queue, messages("before"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(BrokerUnavailable, match=r"queue\.db"):
            await broker.publish(queue, [Message(b"x" * (4 << 20))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    await broker.publish(queue, messages("after"))
    async with await broker.consume(queue, prefetch=5) as consumer:
        assert bodies(await take(consumer, 2)) == ["before", "after"]


async def test_one_message_that_cannot_be_stored_fails_alone(broker: Broker, queue: str) -> None:
    bad = Message(b"", headers={"key": b"bytes"})  # type: ignore[dict-item]
    outcomes = await asyncio.gather(
        *(broker.publish(queue, [message]) for message in (*numbered(3), bad, *numbered(3))),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [TypeError]
    await depth_becomes(broker, queue, 6)


async def test_a_file_that_is_no_queue_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, just " + "words " * 1000)
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    for url in (f"sqlite:///{text}", f"sqlite:///{newer}", f"sqlite:///{tmp_path}", f"sqlite:///{text}/queue.db"):
        with pytest.raises(ConfigError):
            await open_broker(url).start()


async def test_long_work_is_not_handed_out_twice_while_its_process_lives(path: Path, queue: str) -> None:
    url = f"sqlite:///{path}?lease=0.4"
    async with open_broker(url) as mine, open_broker(url) as others:
        await mine.publish(queue, messages("long"))
        async with await mine.consume(queue, prefetch=1) as consumer:
            held = await take(consumer, 1)
            async with await others.consume(queue, prefetch=1) as rival:
                assert await nothing_comes(rival, 1.2)
                await consumer.ack(held)
                assert await nothing_comes(rival)


async def test_a_process_that_stands_still_loses_its_messages_and_settles_nothing(
    path: Path, queue: str, start_peer: StartPeer
) -> None:
    url = f"sqlite:///{path}?lease=0.5"
    async with open_broker(url) as broker:
        await broker.publish(queue, messages("frozen"))
        peer = await start_peer(url, "settle-late", queue)
        assert await peer.line() == "frozen"
        async with await broker.consume(queue, prefetch=1) as consumer:
            peer.signal(signal.SIGSTOP)
            held = await take(consumer, 1)
            peer.signal(signal.SIGCONT)
            peer.tell()
            assert await peer.line() == "settled"

            await consumer.nack(held)

            assert bodies(await take(consumer, 1)) == ["frozen"]


async def test_a_forked_child_does_not_keep_its_dead_parent_alive(
    broker: Broker, path: Path, queue: str, start_peer: StartPeer
) -> None:
    await broker.publish(queue, numbered(1))
    peer = await start_peer(f"sqlite:///{path}", "hold-forked", queue, "1")
    child = int(await peer.line())
    try:
        assert await peer.line() == "m-0"
        async with await broker.consume(queue, prefetch=1) as consumer:
            await peer.kill()
            assert bodies(await take(consumer, 1)) == ["m-0"]
    finally:
        os.kill(child, signal.SIGKILL)


async def test_messages_arrive_though_every_hint_is_lost(broker: Broker, path: Path, queue: str) -> None:
    async with (
        await broker.consume(queue, prefetch=1) as consumer,
        open_broker(f"sqlite:///{path}") as other,
    ):
        for pipe in path.with_name("queue.db.wake").glob("*.fifo"):
            pipe.unlink()
        await other.publish(queue, messages("unannounced"))
        assert bodies(await take(consumer, 1)) == ["unannounced"]


async def test_a_process_that_stood_still_is_told_that_events_for_it_were_lost(tmp_path: Path) -> None:
    heard: list[str] = []
    own = ProcessPipe(tmp_path, lambda queue: None, lambda topic, payload: None, lambda: None)
    slow = ProcessPipe(
        tmp_path, lambda queue: None, lambda topic, payload: heard.append(payload[:5]), lambda: heard.append("lost")
    )
    own.open()
    slow.open()
    slow.listen()
    try:
        left = own.send_event("topic", "first")
        while not left:  # until its pipe is full, since nothing is awaited here
            left = own.send_event("topic", "again" + "x" * 3000)
        own.give_up(left)
        assert own.send_event("topic", "never" + "x" * 3000) == {}, "nobody waits for it any more"
        async with within():
            while "again" not in heard:
                await asyncio.sleep(0.01)
            own.send_event("topic", "after")
            own.send_event("topic", "later")
            while "later" not in heard:
                await asyncio.sleep(0.01)
        assert heard[0] == "first"
        assert heard[-3:] == ["lost", "after", "later"], "told before what comes next"
        assert "never" not in heard
    finally:
        slow.close()
        own.close()


async def test_what_dead_processes_leave_is_cleaned_up(
    broker: Broker, path: Path, queue: str, start_peer: StartPeer
) -> None:
    wake = path.with_name("queue.db.wake")
    peer = await start_peer(f"sqlite:///{path}", "listen", queue)
    assert await peer.line() == "listening"
    assert sum(stat.S_ISFIFO(one.stat().st_mode) for one in wake.iterdir()) == 1
    await peer.kill()
    await broker.broadcast(queue, "anyone?")
    assert not list(wake.glob("*.fifo"))

    async with await broker.consume(queue, prefetch=1), within():
        while len(list(wake.glob("*.lock"))) > 1:
            await asyncio.sleep(0.02)


async def test_the_file_does_not_grow_with_what_passed_through(broker: Broker, path: Path, queue: str) -> None:
    async with await broker.consume(queue, prefetch=100) as consumer:
        for _ in range(60):
            await broker.publish(queue, [Message(b"x" * 10_000)] * 100)
            deliveries = await take(consumer, 100)
            await consumer.ack(deliveries)
    size = sum(one.stat().st_size for one in path.parent.glob("queue.db*") if one.is_file())
    assert size < 30 << 20


async def test_processes_that_wait_use_next_to_no_cpu(broker: Broker, queue: str) -> None:
    async with await broker.consume(queue, prefetch=1) as consumer:
        before = resource.getrusage(resource.RUSAGE_SELF)
        assert await nothing_comes(consumer, 1.0)
        after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.1


async def test_a_broker_works_on_when_its_wake_folder_is_removed(broker: Broker, path: Path, queue: str) -> None:
    async with await broker.consume(queue, prefetch=1) as consumer:
        shutil.rmtree(path.with_name("queue.db.wake"))
        await broker.publish(queue, messages("still works"))
        assert bodies(await take(consumer, 1)) == ["still works"]


async def test_the_file_of_a_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with open_store(url) as store:
        with pytest.raises(ConfigError, match=r"of a store: choose another file in the broker's URL"):
            await open_broker(url).start()
        await store.ping()


DELETED = {"the file alone": ["queue.db"], "all of it": ["queue.db", "queue.db-wal", "queue.db-shm", "queue.db.wake"]}


def delete(path: Path, names: list[str], *, instead: str = "") -> None:
    """Delete what belongs to a queue file, and maybe put a text in its place."""
    for name in names:
        one = path.with_name(name)
        shutil.rmtree(one) if one.is_dir() else one.unlink(missing_ok=True)
    if instead:
        path.write_text(instead)


@pytest.mark.parametrize("names", DELETED.values(), ids=DELETED)
async def test_a_file_that_is_deleted_in_use_is_made_anew_by_all_who_use_it(
    broker: Broker, path: Path, queue: str, names: list[str], start_peer: StartPeer
) -> None:
    url = f"sqlite:///{path}"
    await broker.publish(queue, numbered(100))
    async with open_broker(url) as other, await other.consume(queue, prefetch=10) as consumer:
        stale = await take(consumer, 10)
        peer = await start_peer(url, "hold", queue, "5")
        assert await peer.line()
        delete(path, names)
        await broker.publish(queue, messages("new", "newer"))
        await consumer.ack(stale)  # of the old file: changes nothing in the new one
        found: list[str] = []
        while len(found) < 2:
            deliveries = await take(consumer, 1)
            await consumer.ack(deliveries)
            found += [body for body in bodies(deliveries) if body.startswith("new")]
        await depth_becomes(broker, queue, 0)
        await peer.kill()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (0,)


async def test_another_kind_of_file_in_its_place_refuses_work_until_it_is_gone(
    broker: Broker, path: Path, queue: str
) -> None:
    delete(path, DELETED["all of it"], instead="not a database, just " + "words " * 1000)
    with pytest.raises(BrokerUnavailable, match="not an SQLite database"):
        await broker.publish(queue, messages("lost"))
    delete(path, DELETED["the file alone"])
    await broker.publish(queue, messages("kept"))
    await depth_becomes(broker, queue, 1)
