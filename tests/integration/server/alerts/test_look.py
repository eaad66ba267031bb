"""What is asked of store, broker and host for an evaluation of the alert rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dts.broker import Broker, Message, open_broker
from dts.model import AlertRule, Function
from dts.server.alerts.look import Looker
from dts.server.alerts.observe import Traffic
from dts.server.alerts.targets import Targets
from dts.server.history.functions import FunctionHistory
from dts.store import Store, open_store
from dts.wire.queues import jobs_queue
from tests.services.receivers import a_certificate
from tests.services.waiting import within

Place = tuple[Store, Broker]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(f"sqlite:///{tmp_path}/store.db"))
        broker = await stack.enter_async_context(open_broker(f"sqlite:///{tmp_path}/queue.db"))
        yield store, broker


async def test_a_queue_in_which_nothing_is_started_ages_and_one_that_moves_is_as_old_as_its_waits(place: Place) -> None:
    store, broker = place
    await store.add_function(Function("a/b"))
    looker, rules = Looker(store, broker), [AlertRule("age", "queue_age")]
    assert (await looker.look(rules)).ages == {"default": 0.0}
    await broker.publish(jobs_queue("default"), [Message(b"x")])
    first = (await looker.look(rules)).ages["default"]
    second = (await looker.look(rules)).ages["default"]
    assert 0.0 <= first < second
    history = FunctionHistory(store)
    history.note("a/b", [0.1] * 20, 5, 1234.5)
    await history.flush()
    snapshot = await looker.look(rules)
    assert snapshot.ages == {"default": 1234.5}
    assert snapshot.traffic == {"a/b": Traffic(20, 5)}
    assert snapshot.queues == {"default": 1}


async def test_nothing_is_asked_for_that_no_rule_is_about(place: Place) -> None:
    snapshot = await Looker(*place).look([AlertRule("q", "queue", enabled=False), AlertRule("d", "disk")])
    assert (snapshot.queues, snapshot.traffic, snapshot.targets, snapshot.broker_away) == ({}, {}, {}, 0.0)


async def test_certificates_in_files_and_of_servers_and_the_disk_of_a_folder(tmp_path: Path, place: Place) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=a_certificate(tmp_path))
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    targets = [str(tmp_path / "ca.pem"), address, str(tmp_path / "missing.pem"), str(tmp_path / "key.pem")]
    rules = [AlertRule(f"c{number}", "certificate", target=target) for number, target in enumerate(targets)]
    rules += [AlertRule("s", "space", target=str(tmp_path)), AlertRule("no", "space", target=str(tmp_path / "missing"))]
    async with server:
        found = (await Looker(*place).look(rules)).targets
    assert set(found) == {("certificate", targets[0]), ("certificate", address), ("space", str(tmp_path))}
    assert 8 < found["certificate", targets[0]] < 9.1
    assert found["certificate", targets[0]] == pytest.approx(found["certificate", address], abs=0.1)
    assert 0 <= found["space", str(tmp_path)] <= 100


async def test_a_target_that_does_not_answer_keeps_no_other_waiting_and_is_asked_once(tmp_path: Path) -> None:
    asked: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: asked.append(writer), "127.0.0.1", 0)
    mute = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    rules = [AlertRule("c", "certificate", target=mute), AlertRule("s", "space", target=str(tmp_path))]
    targets = Targets(patience=0.01)
    async with server, within():
        while not (await targets.look(rules) and asked):
            await asyncio.sleep(0.01)
        assert set(await targets.look(rules)) == {("space", str(tmp_path))}
        assert len(asked) == 1
        asked[0].close()


async def test_a_device_is_not_read_as_a_certificate() -> None:
    assert await Targets().look([AlertRule("c", "certificate", target="/dev/zero")]) == {}
