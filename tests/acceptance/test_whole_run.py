"""The whole way on one machine, for each Python that is supported: plain and async functions, a failure, an end."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.services.deployment import Deployment, rows

PLAIN = """
def main(line):
    if line.endswith("7"):
        raise ValueError(f"not {line}")
    return line[::-1]
"""

ASYNC = """
import asyncio


async def main(line):
    await asyncio.sleep(0.01)
    if line.endswith("7"):
        raise ValueError(f"not {line}")
    return line[::-1]
"""

COUNT = 1000


def _write_functions(folder: Path) -> None:
    namespace = folder / "own"
    namespace.mkdir(parents=True)
    (namespace / "plain.py").write_text(PLAIN)
    (namespace / "waits.py").write_text(ASYNC)


def _check_rows(path: Path) -> None:
    found = sorted(rows(path), key=lambda row: row["line"])
    assert [row["line"] for row in found] == list(range(1, COUNT + 1))
    for row in found:
        if str(row["line"]).endswith("7"):
            assert row["error"]["type"] == "ValueError"
            assert row["error"]["message"] == f"not {row['line']}"
        else:
            assert row["result"] == str(row["line"])[::-1]


def test_plain_and_async_functions_answer_every_line(embedded: Deployment, tmp_path: Path) -> None:
    _write_functions(tmp_path / "functions")
    command = [sys.executable, "-m", "dts", "--port", str(embedded.port), "--functions", str(tmp_path / "functions")]
    embedded.start("dts", *command)
    embedded.wait_ready("dts")
    infile = tmp_path / "in.txt"
    infile.write_text("".join(f"{number}\n" for number in range(1, COUNT + 1)))
    for function in ("own/plain", "own/waits"):
        changed = embedded.admin("functions", "update", function, "max_attempts=1")
        assert changed.returncode == 0, changed.stderr
        outfile = tmp_path / f"{function.replace('/', '-')}.json"
        done = embedded.run_client(function, infile, outfile)
        assert f"{COUNT} lines: {COUNT - COUNT // 10} succeeded, {COUNT // 10} failed" in done.stderr
        _check_rows(outfile)
    embedded.signal("dts", signal.SIGTERM)
    assert embedded.wait("dts") == 0, embedded.log("dts")
