"""Whoever has the URL of the broker alone can disturb, and command nothing: `tests/services/url_alone.py` tries."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from dts.client import DtsClient
from tests.services.deployment import ROOT, Deployment
from tests.services.waiting import wait_until

REFUSED = 12
"""Forgeries that end as dead letters: all but the events and the forged dead letter, which is one already."""


def client_of(deployment: Deployment) -> DtsClient:
    secret = (deployment.folder / "var/admin.secret").read_text().strip()
    return DtsClient("admin", secret, deployment.url)


async def submit(deployment: Deployment) -> tuple[str, str]:
    async with client_of(deployment) as client:
        waits = await client.submit("text/upper", "victim")
        other = await client.submit("text/upper", "other")
    return waits, other


async def look(deployment: Deployment, job: str, wait: float = 0) -> dict[str, Any]:
    async with client_of(deployment) as client:
        return dict(await client.get(job, wait=wait))


def administer(deployment: Deployment, *command: str) -> list[dict[str, Any]]:
    done = deployment.admin("--json", *command)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def test_who_has_the_url_alone_commands_nothing(deployment: Deployment) -> None:
    deployment.environment["PYTHONPATH"] = str(ROOT)
    deployment.start_server()
    if not deployment.embedded:
        deployment.start_daemons()
    job, other = asyncio.run(submit(deployment))
    run = job.rpartition("-")[0]
    url = deployment.broker_url or f"sqlite:///{deployment.folder}/var/queue.db"
    tried = deployment.run(sys.executable, "-m", "tests.services.url_alone", url, run, f"{run}-0", "text/upper")
    assert tried.returncode == 0, tried.stderr
    assert len(tried.stdout.splitlines()) == REFUSED + 1 + 5
    deployment.start_worker()

    done = asyncio.run(look(deployment, job, wait=30))
    assert (done["state"], done["result"], done["function"]) == ("succeeded", "VICTIM", "text/upper")
    assert done["worker"] != "forger"
    assert asyncio.run(look(deployment, other, wait=30))["result"] == "OTHER"

    letters = wait_until(
        lambda: (found := administer(deployment, "dead", "list")) and len(found) >= REFUSED + 1 and found,
        "the forgeries to be dead letters",
    )
    assert len(letters) == REFUSED + 1
    assert all(letter["reason"].startswith("refused: ") for letter in letters), letters
    hosts = json.dumps(administer(deployment, "hosts"))
    assert "forger" not in hosts
    assert "forged" not in json.dumps(administer(deployment, "logs"))

    replayed = deployment.admin("--yes", "dead", "replay", "--all")
    assert "no valid seal" in replayed.stdout + replayed.stderr
    assert len(administer(deployment, "dead", "list")) == REFUSED + 1
    said = deployment.log("server") + ("" if deployment.embedded else deployment.log("daemons"))
    assert "refused a message on dts.results: it has no seal" in said
    assert "refused a message on events of results" in said
