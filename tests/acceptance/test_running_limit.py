"""Real processes: however many workers and timekeepers there are, no more jobs run at once than the limit says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.acceptance.test_delayed_jobs import Caller
from tests.services.deployment import Deployment
from tests.services.waiting import within

FUNCTION = """
import time

def main(folder, seconds):
    begun = time.monotonic()
    time.sleep(seconds)
    with open(f"{folder}/times", "a") as file:
        file.write(f"{begun} {time.monotonic()}\\n")
"""

RUNNING = 4
JOBS = 120


def times(folder: Path) -> list[tuple[float, float]]:
    """When each job began and ended."""
    rows = (line.split() for line in (folder / "times").read_text().splitlines())
    return [(float(begun), float(ended)) for begun, ended in rows]


def most_at_once(rows: list[tuple[float, float]]) -> int:
    """How many jobs ran at the same time, at most."""
    steps = sorted([(begun, 1) for begun, _ in rows] + [(ended, -1) for _, ended in rows])
    now = most = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


async def all_ended(call: Caller) -> Any:
    """The caller's statistics when everything has ended."""
    async with within():
        while True:
            seen = (await call("GET", "/jobs/"))["statistics"]
            if seen["succeeded"] + seen["failed"] == seen["total"]:
                return seen
            await asyncio.sleep(0.1)


async def test_no_more_run_at_once_than_the_limit_says(deployment: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "functions" / "own"
    folder.mkdir(parents=True)
    (folder / "slow.py").write_text(FUNCTION)
    deployment.environment |= {"DTS_WORKER_FUNCTIONS": str(folder.parent), "DTS_WORKER_PROCESSES": "5"}
    deployment.start_all()
    deployment.start_worker("second-worker")
    deployment.start_daemons("more", "timekeeper")
    call = Caller(deployment)
    await call("POST", "/admin/namespaces/", {"id": "own", "limits": {"running": RUNNING}})
    await call("POST", "/admin/functions/", {"id": "own/slow"})
    job = {"function": "own/slow", "args": [str(tmp_path), 0.05]}
    await call("POST", "/jobs/", [job] * JOBS)
    await asyncio.sleep(1)  # in the middle of it
    deployment.kill("more")  # it may have held the gate
    await call("POST", "/jobs/", [job] * JOBS)
    seen = await all_ended(call)
    assert (seen["succeeded"], seen["delayed"]) == (2 * JOBS, 0)
    rows = times(tmp_path)
    assert len(rows) >= 2 * JOBS
    assert most_at_once(rows) == RUNNING
    longest = max(later[0] - earlier[0] for earlier, later in zip(sorted(rows), sorted(rows)[1:], strict=False))
    assert longest < 12, "somebody else goes on letting jobs go"
