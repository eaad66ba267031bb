"""`dts-client --local`: rows and exit statuses as with a server, without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CODE = """
from dts.worker import Retry, context
def main(line, **kwargs):
    if line == "bad": raise ValueError("no")
    if line == "again" and context.attempt == 1: raise Retry(delay=3600)
    return [line, context.attempt, context.job_id.rpartition("-")[2], kwargs]
"""


def run(folder: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dts.client.cli", "--local", *words]
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False)


def test_each_line_has_its_row_and_failures_are_the_exit_status(tmp_path: Path) -> None:
    (tmp_path / "functions/own").mkdir(parents=True)
    (tmp_path / "functions/own/f.py").write_text(CODE)
    (tmp_path / "in.txt").write_text("\n".join(["one", "bad", "again", *map(str, range(4, 201)), "bad"]) + "\n")
    words = ["--keep-order", "--fields", "id,attempt", "--args", '{"n": 1}', "--max-attempts", "2"]
    done = run(tmp_path, "own/f", "in.txt", "out.json", *words)
    assert done.returncode == 2, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert [row["line"] for row in rows] == list(range(1, 202))
    assert [row["line"] for row in rows if not row["success"]] == [2, 201]
    assert rows[1]["error"]["type"] == "ValueError"
    assert [row["attempt"] for row in rows[:4]] == [1, 2, 2, 1]
    assert rows[2]["result"] == ["again", 2, "2", {"n": 1}]
    assert rows[150]["result"] == ["151", 1, "150", {"n": 1}]
    assert rows[150]["id"].endswith("-150")
    assert "201 lines: 199 succeeded, 2 failed" in done.stderr


def test_lines_that_are_no_arguments_and_options_that_need_a_server(tmp_path: Path) -> None:
    done = run(tmp_path, "math/add", "-", "-", "--input-format", "json", "--quiet", given="[1, 2]\nnonsense\n[3, 4]\n")
    rows = {row["line"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert (done.returncode, rows[1]["result"], rows[3]["result"]) == (1, 3, 7), done.stderr
    assert rows[2]["error"]["type"] == "ComponentError"
    refused = run(tmp_path, "math/add", "-", "out.json", "--detach")
    assert refused.returncode != 0
    assert "--detach needs a server" in refused.stderr
    assert not (tmp_path / "out.json").exists()
