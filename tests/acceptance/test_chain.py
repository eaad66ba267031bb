"""Real processes: a run, the one that its results go into, and one result of all, with workers and daemons killed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from tests.acceptance.test_delayed_jobs import Caller
from tests.services.deployment import Deployment

LINES = int(os.environ.get("CHAIN_LINES", "4000"))
"""Lines of the run; by hand also 100,000."""

BLOCK = 2048

FUNCTIONS = {
    "double": "def main(number):\n    return 2 * number\n",
    "half": "def main(number):\n    if number % 3 == 0:\n        raise ValueError(number)\n    return number // 2\n",
    "total": "def main(numbers):\n    return sum(numbers)\n",
    "hear": "def main(summary):\n    return summary\n",
}


async def statistics(call: Caller, run: str) -> dict[str, int]:
    seen: dict[str, int] = (await call("GET", f"/runs/{run}"))["statistics"]
    return seen


async def half_way(call: Caller, run: str, count: int) -> None:
    """Wait until so many jobs of a run have ended."""
    while (await statistics(call, run))["succeeded"] < count:
        await asyncio.sleep(0.02)


async def only_result(call: Caller, run: str) -> Any:
    """The result of the one job of a run, when it has ended."""
    async with asyncio.timeout(280):
        while (await statistics(call, run))["total"] == 0:
            await asyncio.sleep(0.1)
        while not (job := await call("GET", f"/jobs/{run}-0?wait=20")).get("success"):
            assert job["state"] not in ("failed", "cancelled"), job
    return job["result"]


async def test_a_chain_has_the_right_result_once_though_workers_and_daemons_are_killed(
    deployment: Deployment, tmp_path: Path
) -> None:
    folder = tmp_path / "functions" / "chain"
    folder.mkdir(parents=True)
    for name, code in FUNCTIONS.items():
        (folder / f"{name}.py").write_text(code)
    deployment.environment["DTS_WORKER_FUNCTIONS"] = str(folder.parent)
    deployment.start_all()
    deployment.start_worker("second-worker")
    deployment.start_daemons("more", "timekeeper", "porter")
    call = Caller(deployment)
    await call("POST", "/admin/namespaces/", {"id": "chain"})
    for name in FUNCTIONS:
        await call("POST", "/admin/functions/", {"id": f"chain/{name}"})
    wants = {"then": "chain/half", "reduce": "chain/total", "on_failure": "chain/hear", "on_end": "chain/hear"}
    run = await call("POST", "/runs/", {"function": "chain/double", **wants})
    assert run["block_size"] == BLOCK
    for number, start in enumerate(range(0, LINES, BLOCK)):
        values = range(start, min(start + BLOCK, LINES))
        await call.put(f"/runs/{run['id']}/blocks/{number}", "\n".join(f'{{"args": [{value}]}}' for value in values))
    await call("PATCH", f"/runs/{run['id']}", {"state": "closed"})
    async with asyncio.timeout(280):
        await half_way(call, run["id"], LINES // 4)
        deployment.kill("second-worker")
        await half_way(call, run["then_run"], LINES // 8)
        deployment.kill("more")
        deployment.restart("second-worker")
        deployment.kill("worker")
        deployment.restart("worker")
    assert await only_result(call, run["reduce_run"]) == sum(value for value in range(LINES) if value % 3)
    seen = await call("GET", f"/runs/{run['id']}")
    assert (seen["statistics"]["succeeded"], seen["statistics"]["total"]) == (LINES, LINES)
    then = await statistics(call, run["then_run"])
    assert (then["total"], then["failed"]) == (LINES, len(range(0, LINES, 3)))
    summary = await only_result(call, seen["on_end_run"])
    assert (summary["success"], summary["succeeded"]) == (True, LINES)
    assert "on_failure_run" not in seen
