"""A worker that stands still for so long that its work is given to another, and then goes on as if nothing was."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.test_delayed_jobs import Caller
from tests.services.base import freeze
from tests.services.deployment import Deployment
from tests.services.waiting import wait_until

FUNCTION = """
import os
import time

def main(folder):
    who = os.environ["WHO"]
    open(f"{folder}/{who}.begun", "w").close()
    while not os.path.exists(f"{folder}/{who}.go"):
        time.sleep(0.01)
    open(f"{folder}/{who}.ended", "w").close()
    return who
"""


class Frozen:
    """A worker with all its processes, between SIGSTOP and SIGCONT."""

    def __init__(self, pid: int) -> None:
        worker = psutil.Process(pid)
        self._processes = [worker, *worker.children(recursive=True)]
        freeze(*(process.pid for process in self._processes))

    def thaw(self) -> None:
        """Let it go on."""
        for process in reversed(self._processes):
            os.kill(process.pid, signal.SIGCONT)


class Stage:
    """A deployment with a function that ends when its worker is told."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.folder = folder
        (folder / "functions" / "own").mkdir(parents=True)
        (folder / "functions" / "own" / "wait.py").write_text(FUNCTION)
        hasty = "sqlite:///var/queue.db?lease=1" if deployment.embedded else f"{deployment.broker_url}?heartbeat=1"
        deployment.environment |= {
            "DTS_BROKER_URL": hasty,  # soon notices a consumer that stands still
            "DTS_WORKER_FUNCTIONS": str(folder / "functions"),
            "DTS_WORKER_PROCESSES": "1",
        }

    async def begin(self) -> Caller:
        """Server, daemons and the first worker."""
        self.deployment.start_server()
        if not self.deployment.embedded:
            self.deployment.start_daemons()
        self.start_worker("first")
        call = Caller(self.deployment)
        await call("POST", "/admin/namespaces/", {"id": "own"})
        await call("POST", "/admin/functions/", {"id": "own/wait"})
        return call

    def start_worker(self, name: str) -> None:
        """Start a worker whose jobs know its name."""
        self.deployment.environment["WHO"] = name
        self.deployment.start_worker(name, "--name", name)

    def is_there(self, name: str) -> None:
        """Wait for what a job says by a file."""
        wait_until((self.folder / name).exists, name)

    def go(self, name: str) -> None:
        """Let the job of a worker end."""
        (self.folder / f"{name}.go").touch()

    def say(self, text: str) -> None:
        """Wait for a line in the log of whoever runs the daemons."""
        log = "server" if self.deployment.embedded else "daemons"
        wait_until(lambda: text in self.deployment.log(log), text)


@pytest.fixture
def stage(deployment: Deployment, tmp_path: Path) -> Stage:
    return Stage(deployment, tmp_path)


async def statistics(call: Caller, job: str) -> dict[str, Any]:
    """How many jobs of the job's run are in which state, but for those that are none."""
    found = (await call("GET", f"/runs/{job.rpartition('-')[0]}"))["statistics"]
    return {state: count for state, count in found.items() if count}


async def test_the_late_result_of_a_lost_lease_is_void(stage: Stage, tmp_path: Path) -> None:
    # RabbitMQ gives a frozen worker messages until its connection has timed out: the lease expires after that.
    lease = "2" if stage.deployment.embedded else "5"
    stage.deployment.environment |= {"DTS_SERVER_LEASE_UNLIMITED": "true", "DTS_WORKER_LEASE": lease}
    call = await stage.begin()
    job = await call("POST", "/jobs/", {"function": "own/wait", "args": [str(tmp_path)]})
    stage.is_there("first.begun")
    while (await call("GET", f"/jobs/{job}?wait=0.1"))["state"] != "running":
        pass
    frozen = Frozen(stage.deployment.pid("first"))
    stage.start_worker("second")
    stage.is_there("second.begun")
    stage.go("first")
    frozen.thaw()
    stage.is_there("first.ended")
    stage.say("late results of worker first")
    assert (await call("GET", f"/jobs/{job}"))["state"] == "running"
    stage.go("second")
    done = await call("GET", f"/jobs/{job}?wait=20")
    assert (done["state"], done["result"], done["attempt"]) == ("succeeded", "second", 2)
    assert await statistics(call, job) == {"total": 1, "succeeded": 1}


async def test_the_late_result_of_a_lost_message_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    deployment = stage.deployment
    call = await stage.begin()
    job = await call("POST", "/jobs/", {"function": "own/wait", "args": [str(tmp_path)]})
    stage.is_there("first.begun")
    frozen = Frozen(deployment.pid("first"))
    stage.start_worker("second")
    stage.is_there("second.begun")
    stage.go("second")
    done = await call("GET", f"/jobs/{job}?wait=20")
    assert (done["state"], done["result"]) == ("succeeded", "second")
    stage.go("first")
    frozen.thaw()
    stage.is_there("first.ended")
    other = await call("POST", "/jobs/", {"function": "own/wait", "args": [str(tmp_path)]})
    assert (await call("GET", f"/jobs/{other}?wait=20"))["state"] == "succeeded"
    assert await call("GET", f"/jobs/{job}") == done
    assert await statistics(call, job) == {"total": 1, "succeeded": 1}
