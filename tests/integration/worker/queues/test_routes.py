"""Routes of a worker that come and go while it is at work, and while its machine becomes short of something."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from dts.broker import open_broker
from dts.config import RouteSettings
from dts.errors import ConfigError
from dts.worker.queues import route_consumer as intake
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

GATE = """\
import pathlib, time
def main(gate):
    pathlib.Path(gate + 'begun').touch()
    while not pathlib.Path(gate).exists(): time.sleep(0.01)
    return 1
"""


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "LOOK_EVERY", 0.05)


def tasks_of(route: str) -> list[str]:
    """The names of the tasks that serve a route."""
    return [name for task in asyncio.all_tasks() if (name := task.get_name()).endswith(f" of {route}")]


async def taken_by_nobody(bench: Bench, routes: Iterable[str]) -> None:
    """Check that messages of routes can be had: no worker has fetched them."""
    for route in routes:
        await bench.send("text/upper", ["a"], route=route)
        async with await bench.broker.consume(f"dts.jobs.{route}", prefetch=1) as consumer, within():
            await consumer.ack(await consumer.receive())


async def test_routes_that_change_while_the_machine_becomes_short_are_paused_all_of_them(bench: Bench) -> None:
    async with Worker(bench.settings(routes=("first", "second", "third")), bench.broker) as worker:
        after = bench.settings(routes=("second", "third", "fourth"))
        await asyncio.gather(worker.set_shortage("memory"), worker.adopt(after))
        await taken_by_nobody(bench, ("first", "second", "third", "fourth"))
        await asyncio.gather(worker.set_shortage(""), worker.adopt(bench.settings(routes=("third", "fifth"))))
        for route in ("third", "fifth"):
            run = await bench.send("text/upper", ["a"], route=route)
            assert value((await bench.wait(run, 1))[0]) == "A"
        await taken_by_nobody(bench, ("first", "second", "fourth"))
        assert not worker.failed.is_set()


async def test_fewer_children_and_fewer_routes_may_come_with_one_reload(bench: Bench) -> None:
    async with Worker(bench.settings(processes=2, routes=("default", "other")), bench.broker) as worker:
        await worker.adopt(bench.settings())
        assert value((await bench.run("text/upper", ["a"]))[0]) == "A"
        await taken_by_nobody(bench, ["other"])


async def test_of_a_route_that_is_removed_nothing_is_left_once_its_jobs_are_done(bench: Bench, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/far.db"
    bench.write("own/gate", GATE)
    gate = bench.functions / "gate"
    both = bench.settings(processes=2, route=(RouteSettings("far", url),))
    near = bench.broker
    async with open_broker(url) as far, Worker(both, near) as worker:
        for _ in range(2):
            bench.broker = far
            run = await bench.send("own/gate", [str(gate)], route="far")
            bench.broker = near
            await until((bench.functions / "gatebegun").exists)
            await worker.adopt(bench.settings(processes=2))
            assert value((await bench.run("text/upper", ["a"]))[0]) == "A"
            await asyncio.sleep(4 * intake.LOOK_EVERY)
            assert worker.routes.publishers, "its broker must hear of the job's end"
            gate.touch()
            assert value((await bench.wait(run, 1))[0]) == 1
            await until(lambda: not tasks_of("far") and not worker.routes.publishers)
            depth = await far.depth("dts.jobs.far")
            assert (depth.ready, depth.held) == (0, 0), "it was acked, and not given back"
            assert tasks_of("default")
            for file in (gate, bench.functions / "gatebegun"):
                file.unlink()
            await worker.adopt(both)
        assert len(worker.routes.publishers) == 1


async def test_a_worker_may_end_while_jobs_of_a_removed_route_are_not_done(bench: Bench, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/far.db"
    bench.write("own/gate", GATE)
    gate = bench.functions / "gate"
    settings = bench.settings(route=(RouteSettings("far", url),))
    near = bench.broker
    async with open_broker(url) as far:
        async with Worker(settings, near) as worker:
            bench.broker = far
            run = await bench.send("own/gate", [str(gate)], route="far")
            bench.broker = near
            await until((bench.functions / "gatebegun").exists)
            await worker.adopt(bench.settings())
            asyncio.get_running_loop().call_later(0.3, gate.touch)
        assert value((await bench.wait(run, 1))[0]) == 1, "the drain has finished it"
        depth = await far.depth("dts.jobs.far")
        assert (depth.ready, depth.held) == (0, 0)
    assert not tasks_of("far")


async def test_a_configuration_that_is_refused_leaves_no_broker_open(bench: Bench, tmp_path: Path) -> None:
    good, bad = (
        RouteSettings("good", f"sqlite:///{tmp_path}/good.db"),
        RouteSettings("bad", "sqlite:////proc/no/bad.db"),
    )
    async with Worker(bench.settings(), bench.broker) as worker:
        with pytest.raises(ConfigError):
            await worker.adopt(bench.settings(route=(good, bad)))
        assert worker.routes.names == ["default"]
        assert worker.routes.publishers == []
        assert value((await bench.run("text/upper", ["a"]))[0]) == "A"
