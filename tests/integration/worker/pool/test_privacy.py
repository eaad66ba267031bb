"""What functions can learn of the worker that runs them: nothing that gives orders to the fleet."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dts.config import RouteSettings
from dts.worker.worker import Worker
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

ROOT = Path(__file__).parents[4]

LOOK = """\
import os, sys


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError as error:
        return type(error).__name__


def main(worker):
    links = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            links[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    try:
        os.listdir(f"/proc/{worker}/fd")
        of_worker = "open"
    except OSError as error:
        of_worker = type(error).__name__
    return {
        "environ": dict(os.environ),
        "at_start": read("/proc/self/environ"),
        "of_template": read(f"/proc/{os.getppid()}/environ"),
        "argv": read("/proc/self/cmdline") + read(f"/proc/{os.getppid()}/cmdline") + read(f"/proc/{worker}/cmdline"),
        "of_worker": read(f"/proc/{worker}/environ"),
        "memory_of_worker": read(f"/proc/{worker}/mem"),
        "descriptors_of_worker": of_worker,
        "descriptors": links,
        "user": os.getuid(),
        "groups": os.getgroups(),
        "home": os.environ.get("HOME"),
        "modules": sorted(
            name
            for name in sys.modules
            if name.startswith(("dts.broker", "dts.wire.seal", "dts.runtime.fleet_key", "dts.worker.queues"))
        ),
    }
"""


STEAL = """\
def main(path):
    try:
        return open(path).read()
    except OSError as error:
        return type(error).__name__
"""


@asynccontextmanager
async def a_worker(bench: Bench, folder: Path, user: str = "", **environment: str) -> AsyncIterator[int]:
    """The real command with secrets in its environment; its process id."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dts.worker", "--processes", "1", "--functions", str(bench.functions)),
        cwd=folder,
        env=os.environ
        | {
            "DTS_BROKER_URL": f"sqlite:///{folder}/queue.db",
            "DTS_FLEET_KEY_FILE": f"{folder}/fleet.key",
            "DTS_SECRET": "hush-1",
            "NOTIFY_SOCKET": "/nowhere/hush-2",
            "OF_THE_SITE": "kept",
            "PYTHONPATH": str(ROOT),
        }
        | environment,
        user=user or None,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


async def test_children_know_nothing_of_the_workers_settings(bench: Bench, tmp_path: Path) -> None:
    bench.write("own/look", LOOK)
    async with a_worker(bench, tmp_path) as pid:
        found = value((await bench.run("own/look", [pid]))[0])
    assert found["environ"]["OF_THE_SITE"] == "kept"
    assert [name for name in found["environ"] if name.startswith("DTS_")] == []
    for place in ("environ", "at_start", "of_template", "argv", "descriptors"):
        for secret in ("queue.db", "fleet.key", "hush"):
            assert secret not in str(found[place]), place
    assert found["modules"] == []


async def test_the_urls_of_routes_are_not_sent_to_children(bench: Bench) -> None:
    """They hold passwords, and what a child was sent is in its memory."""
    route = RouteSettings("far", "sqlite:///nowhere/hush.db")
    worker = Worker(bench.settings(route=(route,), log_files=("/hush",)), bench.broker)
    assert "hush" not in repr(worker.executor.options)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to start processes as other users")
def test_processes_of_the_same_user_cannot_read_a_process_of_dts() -> None:
    """As for a worker and its children without `child_user`: both run as `nobody` here, the reader beside it."""
    code = (
        "import os, subprocess, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from dts.runtime.process import keep_private\n"
        "keep_private()\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "keep_private()\n"  # a change of user resets it
        "pid = os.getpid()\n"
        "for name in ('environ', 'mem', 'maps', 'fd/0'):\n"
        "    ended = subprocess.run(['/bin/cat', f'/proc/{pid}/{name}'], capture_output=True, text=True, cwd='/')\n"
        "    print(name, ended.stderr.rpartition(': ')[2].strip())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [f"{name} Permission denied" for name in ("environ", "mem", "maps", "fd/0")]


# children as another user


@pytest.fixture
def shared(bench: Bench) -> Iterator[Path]:
    """A functions directory that every user may read, as the bench's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="dts-functions-"))
    folder.chmod(0o755)
    bench.functions = folder
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to start processes as other users")
async def test_children_run_as_a_user_of_their_own(bench: Bench, tmp_path: Path, shared: Path) -> None:
    bench.write("own/look", LOOK)
    key = tmp_path / "fleet.key"
    bench.write("own/steal", STEAL)
    async with a_worker(bench, tmp_path, DTS_WORKER_CHILD_USER="nobody") as pid:
        found = value((await bench.run("own/look", [pid]))[0])
        for path in (key, tmp_path / "queue.db"):
            assert value((await bench.run("own/steal", [str(path)]))[0]) == "PermissionError", path
        assert value((await bench.run("math/add", [1, 2]))[0]) == 3
    nobody = pwd.getpwnam("nobody")
    assert (found["user"], found["home"]) == (nobody.pw_uid, nobody.pw_dir)
    assert 0 not in found["groups"]
    assert found["of_worker"] == found["memory_of_worker"] == found["descriptors_of_worker"] == "PermissionError"


@pytest.mark.parametrize(
    ("name", "fault"), [("nobody-at-all", "is no user of this machine"), ("root", "must not be root")]
)
async def test_a_user_that_children_cannot_run_as_is_refused(tmp_path: Path, name: str, fault: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dts.worker"),
        cwd=tmp_path,
        env=os.environ | {"DTS_WORKER_CHILD_USER": name, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    assert process.returncode == 2
    assert fault in stderr.decode()
