"""docs/administration.md: every command on the page runs as written, from its beginning to its end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.services.deployment import ROOT, Deployment
from tests.services.waiting import wait_until

PAGE = ROOT / "docs/administration.md"


def commands_on_the_page() -> Iterator[str]:
    """The indented lines that run dts-admin, in their order."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("    ") and line.strip().startswith(("dts-admin ", "printf ")):
            yield line.strip()


@pytest.fixture
def started(embedded: Deployment) -> Deployment:
    (embedded.folder / "etc").symlink_to(ROOT / "etc")
    (embedded.folder / "lines.txt").write_text("one\ntwo\n")
    embedded.environment["DTS_SERVER_URL"] = embedded.url
    return embedded.start_all()


def shell(deployment: Deployment, line: str) -> subprocess.CompletedProcess[str]:
    return deployment.run("bash", "-o", "pipefail", "-c", line)


def a_job(deployment: Deployment) -> str:
    """The id of a job that will not end for a while."""
    (deployment.folder / "in.txt").write_text("[600]\n" * 3)
    flags = ("--detach", "--input-format", "json", "--give-up-after", "5")
    deployment.start_client("demo/sleep", deployment.folder / "in.txt", deployment.folder / "out.json", *flags)
    listed = wait_until(lambda: shell(deployment, "dts-admin runs list --limit 1 --json").stdout, "the run to be there")
    return f"{json.loads(listed)['id']}-0"


def test_every_command_on_the_page_runs(started: Deployment) -> None:
    lines = list(commands_on_the_page())
    assert len(lines) >= 40
    job = ""
    for line in lines:
        if "runs list" in line and not job:
            job = a_job(started)
        told = line.replace(" JOB", f" {job}").replace(" RUN", f" {job.partition('-')[0]}")
        if "cancel" in line or "requeue" in line or "retry" in line:
            told += " --yes"  # the page has somebody who answers
        done = shell(started, told)
        if "runs retry" in line:  # there is nothing to do: no job of that run has failed
            assert "no job of run" in done.stderr
            continue
        assert done.returncode == 0, (told, done.stdout, done.stderr)
