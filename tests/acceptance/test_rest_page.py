"""The session on the page about the REST interface, run as it is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.services.deployment import Deployment

PAGE = (Path(__file__).parents[2] / "docs/rest.md").read_text(encoding="utf-8")


def test_the_session_runs_as_written(deployment: Deployment) -> None:
    [session] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert 'SERVER = "http://127.0.0.1:8000"' in session
    session = session.replace("http://127.0.0.1:8000", deployment.url)
    deployment.start_all()
    done = subprocess.run(
        [sys.executable, "-c", session], cwd=deployment.folder, capture_output=True, text=True, timeout=120, check=True
    )
    block, *rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert block["result"] == {"block": 0, "jobs": 3, "block_jobs": 2048}
    assert sorted((row["job"], row["success"], row.get("result")) for row in rows) == [
        (0, True, "ONE"),
        (1, True, "TWO"),
        (2, False, None),
    ]
