"""The command at its edges: signals while it starts, settings that are wrong, parts that die, brokers that are away."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from dts.config import load_settings
from dts.errors import BrokerUnavailable
from dts.runtime.process import Shutdown
from dts.worker.command import serve as command
from dts.worker.command.signals import Signals
from dts.worker.command.systemd import Notifier
from dts.worker.link.options import ChildOptions, Descriptors
from dts.worker.pool.spawner import Spawner
from dts.worker.telemetry.agent import Agent
from dts.worker.worker import Worker
from tests.integration.worker.command.test_command import Start, read_until, start
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench

__all__ = ["bench", "start"]


def catches(pid: int, number: int) -> bool:
    """Whether a process handles a signal (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << number - 1)
    return False


async def test_signals_that_come_while_it_starts_are_heeded_when_it_is_up(start: Start) -> None:
    process = await start(rest='[logging]\nlevel = "INFO"')
    await until(lambda: catches(process.pid, signal.SIGHUP) and catches(process.pid, signal.SIGUSR1))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    seen = await read_until(process, "was reloaded")
    assert "worker w: routes" in seen
    assert " children" in seen or await read_until(process, " children")
    assert process.returncode is None


@pytest.mark.parametrize(
    ("rest", "arguments", "code", "said"),
    [
        ('job_log_level = "LOUD"', (), 2, "[worker.job_log_level] 'LOUD' is not a level"),
        ("routes = []", (), 2, "[worker.routes] is empty"),
        ("", ("--name", "a\nb"), 2, "[worker.name] 'a\\nb' has characters that cannot be printed"),
        ("", ("--name", "n" * 257), 2, "[worker.name] has 257 characters: 256 are the most"),
        ("", (), 1, "app.log: cannot be followed: it is a directory"),
    ],
)
async def test_check_finds_what_would_not_work(
    start: Start, tmp_path: Path, rest: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "app.log").mkdir()
    process = await start("--check", *arguments, rest=rest)
    assert process.stderr is not None
    assert said in (await process.stderr.read()).decode()
    assert await process.wait() == code


async def test_a_log_file_that_becomes_a_folder_stops_nothing(bench: Bench, start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.log").mkdir()
    process = await start()
    await read_until(process, "is not followed: it is a directory")
    process.send_signal(signal.SIGHUP)
    (tmp_path / "app.log").rmdir()
    (tmp_path / "app.log").write_text("")
    await bench.run("text/upper", ["a"])
    process.terminate()
    assert await process.wait() == 0


async def test_a_part_that_dies_ends_the_worker_with_an_error(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Agent, tail: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(Agent, "_send_new", die)
    settings = load_settings(
        None,
        environment={},
        flags={
            "broker": {"url": f"sqlite:///{tmp_path}/queue.db"},
            "worker": {"processes": 1, "log_files": (str(tmp_path / "log"),), "timekeeper_timeout": 0.0},
        },
    )
    async with within():
        code = await command.serve(settings, Shutdown(), reload=lambda: settings, signals=Signals())
    assert code == 1


async def test_a_burst_ends_with_an_error_when_a_broker_is_away_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command, "_BURST_PATIENCE", 0.5)
    worker, shutdown = Mock(idle=True, failed=asyncio.Event()), Shutdown()
    outcomes: list[Any] = [BrokerUnavailable, 0, BrokerUnavailable, BrokerUnavailable, 0, *[BrokerUnavailable] * 20]

    async def depth() -> int:
        if (outcome := outcomes.pop(0)) == 0:
            return 0
        raise outcome("nobody listens there")

    worker.routes.depth = depth
    async with within():
        await command._until_empty(cast(Worker, worker), shutdown)
    assert worker.failed.is_set()
    assert not shutdown.requested.is_set()
    assert 15 < len(outcomes) < 20, "it counts from the last answer"
    assert "a broker has not answered for 0.5 s: nobody listens there" in caplog.text


async def test_children_that_nobody_waits_for_any_more_are_no_error(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "asyncio")
    async with Spawner() as spawner:
        with socket.socket() as some:
            number = some.fileno()
            given = Descriptors(*[number] * len(Descriptors._fields))
            for _ in range(2):
                asked = asyncio.create_task(spawner.spawn(ChildOptions("w", bench.settings()), given))
                await asyncio.sleep(0.01)
                asked.cancel()
                await asyncio.wait([asked])
    del asked, spawner
    gc.collect()
    await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text


async def test_the_service_manager_hears_of_a_reload_and_of_no_watchdog_that_is_no_number(
    start: Start, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        process = await start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="abc")
        loop = asyncio.get_running_loop()
        async with within():
            assert await loop.sock_recv(manager, 100) == b"READY=1"
            process.send_signal(signal.SIGHUP)
            reloading = (await loop.sock_recv(manager, 100)).decode().split("\n")
            assert reloading[0] == "RELOADING=1"
            assert int(reloading[1].removeprefix("MONOTONIC_USEC=")) > 0
            assert await loop.sock_recv(manager, 100) == b"READY=1"
            process.terminate()
            assert "WATCHDOG_USEC=abc is not a number" in await read_until(process, "WATCHDOG_USEC")
            assert await process.wait() == 0


async def test_without_a_service_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert "NOTIFY_SOCKET" not in os.environ
    async with Notifier() as notifier:
        notifier.tell_reloading()
