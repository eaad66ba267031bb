"""Every number that a request may hold, at the ends of what is accepted: its job runs, and no worker ends by it."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from dts.auth import Credentials
from dts.model.attempts import ATTEMPT_OPTIONS
from dts.model.ranges import BLOCK_DIGITS, TIME
from tests.integration.conftest import Api
from tests.services.deployment import Deployment
from tests.services.waiting import within

BLOCKS = (0, 2**21, 2**31, 2**32, 10**BLOCK_DIGITS - 1)
"""Numbers of blocks: the second one's jobs have numbers of 32 bits, and one more."""

JOBS: list[dict[str, Any]] = [
    *(
        {option.name: option.kind(bound)}
        for option in ATTEMPT_OPTIONS
        if option.values is not None
        for bound in (option.values.low + (60 if option.values.above else 0), option.values.high)
        if option.name != "memory_limit" or bound > option.values.low  # less than a child itself needs
    ),
    {"deadline": TIME.high},
    {"not_before": 0.0},
    {"timeout": 5e8, "soft_timeout": 4e8, "max_attempts": 100, "concurrency": 100_000, "retry_on": ["OSError"]},
]


async def ended(api: Api, job: str) -> dict[str, Any]:
    async with within():
        while True:
            found: dict[str, Any] = await api.call("GET", f"/jobs/{job}?wait=5")
            if found["state"] in ("succeeded", "failed", "cancelled"):
                return found


async def test_numbers_at_their_ends_arrive_and_the_same_worker_runs_them_all(deployment: Deployment) -> None:
    deployment.start_all()
    secret = (deployment.folder / "var/admin.secret").read_text().strip()
    api = Api(deployment.url, Credentials("admin", secret))
    asked = [{"function": "text/upper", "args": ["a"]} | each for each in JOBS]
    jobs = await api.call("POST", "/jobs/", asked, status=201)
    run = (await api.call("POST", "/runs/", {"function": "text/upper"}, status=201))["id"]
    size = (await api.call("GET", f"/runs/{run}"))["block_size"]
    for number in BLOCKS:
        answer = await api.send("PUT", f"/runs/{run}/blocks/{number}", msgspec.json.encode({"args": ["a"]}))
        assert answer.code == 201, answer.body
        jobs.append(f"{run}-{number * size}")
    for job, params in zip(jobs, [*JOBS, *BLOCKS], strict=True):
        found = await ended(api, job)
        assert (found["state"], found.get("result")) == ("succeeded", "A"), (params, found)
    for number in (10**BLOCK_DIGITS, 10**30):
        answer = await api.send("PUT", f"/runs/{run}/blocks/{number}", msgspec.json.encode({"args": ["a"]}))
        assert answer.code == 404
    for bad in ({"timeout": 1e300}, {"max_attempts": 2**64}, {"deadline": time.time() * 1e6}, {"memory_limit": -1}):
        await api.refused("POST", "/jobs/", {"function": "text/upper", **bad}, status=400, code="argument_invalid")
    log = deployment.log("worker")
    assert "Traceback" not in log
    assert log.count(" routes default") == 1, "it was started once"
