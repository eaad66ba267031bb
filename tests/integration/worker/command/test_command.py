"""The real command: signals, checks, heartbeats, logs, and what the service manager hears."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dts.broker import Broker, open_broker
from dts.config import RouteSettings
from dts.errors import BrokerUnavailable
from dts.wire.dts_pb2 import Heartbeat, LogRecord
from dts.wire.queues import HEARTBEATS, LOGS
from dts.worker.events import Events
from dts.worker.telemetry.agent import Agent
from dts.worker.telemetry.prober import Prober
from dts.worker.telemetry.shipping import LogShipper
from dts.worker.telemetry.tail import Tail
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

Start = Callable[..., Coroutine[Any, Any, Process]]

CONFIG = """\
[broker]
url = "sqlite:///{folder}/queue.db"
[fleet]
key_file = "{folder}/fleet.key"
[worker]
name = "w"
processes = 1
functions = "{folder}/functions"
heartbeat = 0.2
log_files = ["{folder}/app.log"]
{rest}
"""


@pytest.fixture
async def start(bench: Bench, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the command with a configuration file, whose further lines are given."""
    started: list[Process] = []

    async def begin(*arguments: str, rest: str = "", **environment: str) -> Process:
        config = tmp_path / "worker.toml"
        config.write_text(CONFIG.format(folder=tmp_path, rest=rest))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dts.worker", "-c", str(config), *arguments),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])} | environment,
            stderr=PIPE,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def read_until(process: Process, text: str) -> str:
    """What the command prints until a text is in it."""
    seen = ""
    assert process.stderr is not None
    async with within():
        while text not in seen:
            line = await process.stderr.readline()
            assert line, f"ended without {text!r}:\n{seen}"
            seen += line.decode()
    return seen


async def heartbeat(broker: Broker, wanted: Callable[[Heartbeat], bool]) -> Heartbeat:
    """The first heartbeat of a kind."""
    async with await broker.consume(HEARTBEATS, prefetch=10) as consumer, within():
        while True:
            for delivery in await consumer.receive(10):
                await consumer.ack([delivery])
                beat = Heartbeat.FromString(delivery.message.body)
                if wanted(beat):
                    return beat


async def test_heartbeats_tell_what_the_worker_does(bench: Bench, start: Start) -> None:
    bench.write(
        "own/gate",
        "import pathlib, time\ndef main(gate):\n    while not pathlib.Path(gate).exists(): time.sleep(0.01)\n",
    )
    gate = bench.functions / "gate"
    process = await start()
    run = await bench.send("own/gate", [str(gate)])
    beat = await heartbeat(bench.broker, lambda beat: bool(beat.running))
    assert (beat.worker, beat.host, beat.pid) == ("w", socket.gethostname(), process.pid)
    assert (beat.children, beat.jobs_running, list(beat.routes)) == (1, 1, ["default"])
    assert [(job.job, job.function) for job in beat.running] == [(f"{run}-0", "own/gate")]
    assert beat.functions["own/gate"].received == 1
    assert beat.state == "working"
    assert 0 < beat.memory_percent < 100
    gate.touch()
    beat = await heartbeat(bench.broker, lambda beat: not beat.running)
    assert beat.functions["own/gate"].done == 1
    assert beat.load_1m == round(beat.load_1m, 2)
    process.terminate()
    beat = await heartbeat(bench.broker, lambda beat: beat.state == "ended")
    assert (beat.children, beat.jobs_running) == (0, 0)
    assert await process.wait() == 0


async def test_usr1_dumps_and_hup_reloads(bench: Bench, start: Start, tmp_path: Path) -> None:
    bench.write(
        "own/gate",
        "import pathlib, time\n"
        "def main(gate):\n"
        "    if gate == 'die': __import__('os')._exit(1)\n"
        "    import signal\n"
        "    signal.signal(signal.SIGUSR1, signal.signal(signal.SIGUSR1, signal.SIG_IGN))\n"
        "    while not pathlib.Path(gate).exists(): time.sleep(0.01)\n",
    )
    gate = bench.functions / "gate"
    process = await start(rest="max_result = 2000")
    run = await bench.send("own/gate", [str(gate)])
    await heartbeat(bench.broker, lambda beat: bool(beat.running))
    process.send_signal(signal.SIGUSR1)
    seen = await read_until(process, "in main")
    assert f"{run}-0 of own/gate" in seen
    config = tmp_path / "worker.toml"
    text = config.read_text()
    config.write_text("[worker]\nno_such_key = 1\n")
    process.send_signal(signal.SIGHUP)
    assert "no_such_key" in await read_until(process, "not reloaded")
    config.write_text(text + "poison_after = 1\n")
    process.send_signal(signal.SIGHUP)
    await read_until(process, "was reloaded")
    gate.touch()
    await bench.wait(run, 1)
    (result,) = await bench.run("own/gate", ["die"])
    assert result.kills == 1


async def test_hup_changes_processes_routes_and_log_levels_and_names_what_takes_a_restart(
    bench: Bench, start: Start, tmp_path: Path
) -> None:
    bench.write("own/pid", "import os, time\ndef main(): time.sleep(0.1); return os.getpid()")
    process = await start()
    await bench.run("own/pid", [])
    config = tmp_path / "worker.toml"
    text = config.read_text()
    changed = text.replace("processes = 1", "processes = 3").replace('name = "w"', 'name = "v"')
    more = 'routes = ["default", "other"]\nlog_level = "INFO"\n[logging]\nlevel = "DEBUG"\n'
    config.write_text(changed + more)
    process.send_signal(signal.SIGHUP)
    seen = await read_until(process, "with a restart only")
    assert seen.rstrip().endswith("worker.name")
    assert "changed: logging.level, worker.processes, worker.routes, worker.log_level" in seen
    await heartbeat(bench.broker, lambda beat: beat.children == 3 and list(beat.routes) == ["default", "other"])
    runs = [await bench.send("own/pid", [], route=route) for route in ("default", "other") for _ in range(12)]
    pids = {value(result) for run in runs for result in await bench.wait(run, 1)}
    assert len(pids) == 3
    config.write_text(text)
    process.send_signal(signal.SIGHUP)
    await heartbeat(bench.broker, lambda beat: beat.children == 1 and list(beat.routes) == ["default"])
    waiting = await bench.send("own/pid", [], route="other")
    await bench.run("own/pid", [])
    assert not any(batch.run == waiting for batch in bench.batches)
    async with await bench.broker.consume(LOGS, prefetch=100) as logs, within():
        told = ""
        while "changed: logging.level" not in told:  # the worker's own log is sent still, and at the new level
            told += "".join(LogRecord.FromString(each.message.body).message for each in await logs.receive(100))


async def test_other_settings_of_children_replace_idle_ones_at_once_and_busy_ones_after_their_message(
    bench: Bench,
) -> None:
    bench.write("own/slow", "import os, time\ndef main(seconds): time.sleep(seconds); return os.getpid()")
    async with Worker(bench.settings(), bench.broker) as worker:
        idle = value((await bench.run("own/slow", [0]))[0])
        await worker.adopt(bench.settings(timeout=20.0))
        await until(lambda: bool(worker.executor.children) and idle not in worker.executor.pids)
        under_way = await bench.send("own/slow", [1.5])
        await until(lambda: any(child.at_work for child in worker.executor.children))
        [busy] = worker.executor.pids
        behind = await bench.send("own/slow", [0])
        await worker.adopt(bench.settings(timeout=0.5))
        late = await bench.send("own/slow", [60])
        assert value((await bench.wait(under_way, 1))[0]) == busy, "as it began"
        assert value((await bench.wait(behind, 1))[0]) != busy
        [result] = await bench.wait(late, 1)
        assert result.error.type == "Timeout"


async def test_fewer_children_finish_what_they_have_begun(bench: Bench) -> None:
    bench.write("own/slow", "import time\ndef main(n): time.sleep(0.5); return n")
    async with Worker(bench.settings(processes=3), bench.broker) as worker:
        runs = [await bench.send("own/slow", [n]) for n in range(8)]
        await until(lambda: sum(bool(each.at_work) for each in worker.executor.children) == 3)
        await worker.adopt(bench.settings(processes=1))
        assert [value((await bench.wait(run, 1))[0]) for run in runs] == list(range(8))
        await until(lambda: worker.free_slots == 1)
    assert bench.retries == []
    await bench.wait_empty()


async def test_check_says_whether_it_could_work(start: Start) -> None:
    good = await start("--check")
    assert await good.wait() == 0
    away = await start("--check", DTS_BROKER_URL="amqp://guest:secret@127.0.0.1:1/")
    assert away.stderr is not None
    assert "secret" not in (text := (await away.stderr.read()).decode())
    assert "127.0.0.1:1" in text
    assert "connection refused: nobody listens there" in text
    assert await away.wait() == 1
    nowhere = await start("--check", "--functions", "/no/such/folder")
    assert await nowhere.wait() == 2
    wrong = await start("--check", rest="log_level = 'LOUD'")
    assert await wrong.wait() == 2


async def test_burst_ends_when_the_queue_is_empty(bench: Bench, start: Start) -> None:
    run = await bench.send("text/upper", ["a"])
    process = await start("--burst")
    async with within():
        assert await process.wait() == 0
    assert value((await bench.wait(run, 1))[0]) == "A"
    beat = await heartbeat(bench.broker, lambda beat: beat.state == "ended")
    assert beat.functions["text/upper"].done == 1


async def test_the_service_manager_is_told(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        process = await start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000")
        heard: list[bytes] = []
        loop = asyncio.get_running_loop()
        async with within():
            while heard.count(b"WATCHDOG=1") < 3:
                heard.append(await loop.sock_recv(manager, 100))
            process.terminate()
            while b"STOPPING=1" not in heard:
                heard.append(await loop.sock_recv(manager, 100))
            assert await process.wait() == 0
    assert heard[0] == b"READY=1"


async def test_records_of_files_and_of_functions_reach_the_logs(bench: Bench, start: Start, tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text("ERROR old\n")
    bench.write("own/f", "from dts.worker import context\ndef main(): context.logger.warning('from the job')")
    process = await start()
    run = await bench.send("own/f", [])
    await bench.wait(run, 1)
    with log.open("a") as file:
        file.write("INFO calm\nERROR first\n  more of it\nDEBUG calm\n")
    found: list[LogRecord] = []
    async with await bench.broker.consume(LOGS, prefetch=100) as consumer, within():
        while len(found) < 3:
            for delivery in await consumer.receive(100):
                found.append(LogRecord.FromString(delivery.message.body))
                await consumer.ack([delivery])
    assert {record.message for record in found} == {"from the job", "ERROR first", "  more of it"}
    assert {record.job for record in found} == {f"{run}-0", ""}
    assert process.returncode is None


# parts


def test_a_tail_follows_a_file_across_rotation_and_truncation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(str(path))
    assert tail.lines() == []
    path.write_text("one\ntw")
    assert tail.lines() == ["one"]
    with path.open("a") as file:
        file.write("o\nthree\n")
        file.flush()
        path.rename(tmp_path / "log.1")
        path.write_text("four\n")
        assert tail.lines() == ["two", "three", "four"]
    path.write_text("")
    assert tail.lines() == []
    path.write_text("five\n")
    assert tail.lines() == ["five"]
    path.unlink()
    assert tail.lines() == []
    tail.close()


async def test_log_records_are_bounded_while_the_broker_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise BrokerUnavailable

    shipper = LogShipper(bench.broker, max_records=10)
    path = tmp_path / "log"
    path.touch()
    tail = Tail(str(path))
    path.write_text("".join(f"ERROR {n}\n" for n in range(50)))
    Agent((), 40, shipper).send_new(tail)
    tail.close()
    assert shipper.dropped == 40
    with monkeypatch.context() as patch:
        patch.setattr(bench.broker, "publish", away)
        with pytest.raises(BrokerUnavailable):
            await shipper.flush()
    await shipper.flush()
    async with await bench.broker.consume(LOGS, prefetch=100) as consumer, within():
        found: list[str] = []
        while len(found) < 10:
            found += [LogRecord.FromString(each.message.body).message for each in await consumer.receive(100)]
    assert found == [f"ERROR {n}" for n in range(40, 50)]


async def test_nothing_new_is_taken_while_the_machine_is_short_of_memory(bench: Bench) -> None:
    async with Worker(bench.settings(min_memory_percent=100), bench.broker) as worker:
        prober = Prober(worker, bench.broker)
        await prober.probe()
        assert (await heartbeat(bench.broker, lambda beat: True)).state == "memory"
        run = await bench.send("text/upper", ["a"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await bench.wait(run, 1)
        await worker.adopt(bench.settings())
        await prober.probe()
        assert value((await bench.wait(run, 1))[0]) == "A"


async def test_what_no_child_has_begun_is_given_back_when_the_machine_is_short(bench: Bench) -> None:
    bench.write(
        "own/gate",
        "import pathlib, time\n"
        "def main(gate):\n"
        "    pathlib.Path(gate + 'begun').touch()\n"
        "    while not pathlib.Path(gate).exists(): time.sleep(0.01)\n"
        "    return 1\n",
    )
    gate = bench.functions / "gate"
    async with Worker(bench.settings(), bench.broker) as worker:
        begun = await bench.send("own/gate", [str(gate)])
        await until((bench.functions / "gatebegun").exists)
        waiting = [await bench.send("text/upper", [f"{n}"]) for n in range(3)]
        await until(lambda: worker.free_slots == 0)
        await worker.set_shortage("memory")
        async with Worker(bench.settings(name="other"), bench.broker) as other:
            assert [value((await bench.wait(run, 1))[0]) for run in waiting] == ["0", "1", "2"]
            assert other.events.total(Events.DONE) == 3
        gate.touch()
        assert value((await bench.wait(begun, 1))[0]) == 1
        await worker.set_shortage("")
        assert value((await bench.run("text/upper", ["again"]))[0]) == "AGAIN"
    assert sum(len(batch.results) for batch in bench.batches) == 5
    await bench.wait_empty()


async def test_children_are_replaced_gently(bench: Bench) -> None:
    bench.write("own/f", "import os\ndef main(n): return os.getpid()")
    leak = "    kept.append(b'x' * 2**25)\n    time.sleep(0.2)\n    return len(kept)\n"
    bench.write("own/leak", "import time\nkept = []\ndef main(n):\n" + leak)
    async with Worker(bench.settings(recycle_after=10, recycle_rss=150 * 2**20), bench.broker) as worker:
        runs = [await bench.send("own/f", *([n] for n in range(5))) for _ in range(8)]
        pids = {value(result) for run in runs for result in await bench.wait(run, 5)}
        assert len(pids) == 4
        await worker.adopt(bench.settings(recycle_rss=150 * 2**20))
        await until(lambda: bool(worker.executor.children))
        leaks = [value((await bench.run("own/leak", [n]))[0]) for n in range(10)]
        assert max(leaks) < 8
        assert bench.retries == []
    await bench.wait_empty()


async def test_a_route_may_have_a_broker_of_its_own(bench: Bench, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/far.db"
    bench.write("own/slow", "import time\ndef main(n): time.sleep(0.2); return n")
    settings = bench.settings(route=(RouteSettings("far", url, prefetch=1),))
    async with open_broker(url) as far, Worker(settings, bench.broker):
        near, bench.broker = bench.broker, far
        run = await bench.send("own/slow", [1], [2], [3], route="far")
        bench.broker = near
        assert [value(result) for result in await bench.wait(run, 3)] == [1, 2, 3]
        async with within():
            while (await far.depth("dts.jobs.far")).ready:
                await asyncio.sleep(0.01)
