"""A file of a thousand lines, one in twenty of which does its worst to the process that runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.services.deployment import Deployment, rows
from tests.services.hostile import HOSTILE, hostile_module

LONG = {"flood", "huge_result", "own_retry"}
"""Deeds that are done at their end only after a while, and say nothing that the others do not."""

DEEDS = [how for how in HOSTILE if HOSTILE[how][1] not in ("timeout", "memory") and how not in LONG]


def test_a_run_with_hostile_lines_completes(deployment: Deployment, tmp_path: Path) -> None:
    functions = tmp_path / "functions"
    (functions / "own").mkdir(parents=True)
    (functions / "own" / "hostile.py").write_text(hostile_module())
    hostile = {20 * k + 7: DEEDS[k % len(DEEDS)] for k in range(50)}
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{hostile.get(line, f'line {line}')}\n" for line in range(1, 1001)))
    deployment.environment["DTS_WORKER_FUNCTIONS"] = str(functions)
    deployment.start_all()
    for command in ("namespaces add own", "functions add own/hostile"):
        administer(deployment, *command.split())
    done = deployment.run_client("own/hostile", lines, tmp_path / "out.json")
    found = {row["line"]: row for row in rows(tmp_path / "out.json")}
    assert sorted(found) == list(range(1, 1001)), done.stderr
    for line, row in found.items():
        if line not in hostile:
            assert row["result"] == f"line {line}"
        elif HOSTILE[hostile[line]][1] is not None:
            assert not row["success"]
            if "SIG" in HOSTILE[hostile[line]][1]:
                assert row["error"]["reason"] == "poison"


def administer(deployment: Deployment, *command: str) -> None:
    """Run one command of `dts-admin`."""
    secret = str(deployment.folder / "var/admin.secret")
    flags = ["--username", "admin", "--secret-file", secret, "--url", deployment.url]
    subprocess.run(["dts-admin", *flags, *command], cwd=deployment.folder, env=deployment.env(), check=True, timeout=60)
