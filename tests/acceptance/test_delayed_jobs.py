"""Real processes: a function that asks for another attempt gets it, and a job with a time runs then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from dts.auth import Credentials, KeccakAuthenticator, Request
from tests.services.deployment import Deployment

FUNCTION = """
from dts.worker import Retry
from dts.worker import context

def main(folder, times):
    attempt = context.attempt
    with open(f"{folder}/attempts", "a") as file:
        file.write(f"{attempt}\\n")
    if attempt < times:
        raise Retry("not yet", delay=0.2)
    return attempt
"""


class Caller:
    """The administrator, with signed requests."""

    def __init__(self, deployment: Deployment) -> None:
        secret = (deployment.folder / "var/admin.secret").read_text().strip()
        self._url = deployment.url
        self._credentials = Credentials("admin", secret)

    async def __call__(self, method: str, path: str, params: object = None) -> Any:
        body = msgspec.json.encode({"params": params}) if params is not None else None
        return await self._send(method, path, body, {"Content-Type": "application/json"} if body is not None else {})

    async def put(self, path: str, lines: str) -> Any:
        """Send a block in NDJSON."""
        return await self._send("PUT", path, lines.encode(), {"Content-Type": "application/x-ndjson"})

    async def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        head = Request.to(method, self._url + path, headers)
        headers["Authorization"] = KeccakAuthenticator(self._credentials).sign(head, body or b"")
        request = HTTPRequest(self._url + path, method=method, body=body, headers=headers, request_timeout=60)
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        assert answer.code in (200, 201), answer.body
        return msgspec.json.decode(answer.body)["result"]


async def test_a_function_that_asks_for_another_attempt_gets_it(deployment: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "functions" / "own"
    folder.mkdir(parents=True)
    (folder / "again.py").write_text(FUNCTION)
    deployment.environment["DTS_WORKER_FUNCTIONS"] = str(folder.parent)
    deployment.start_all()
    call = Caller(deployment)
    await call("POST", "/admin/namespaces/", {"id": "own"})
    await call("POST", "/admin/functions/", {"id": "own/again", "max_attempts": 5})
    due = time.time() + 1.5
    again, never, later = await call(
        "POST",
        "/jobs/",
        [
            {"function": "own/again", "args": [str(tmp_path), 3]},
            {"function": "own/again", "args": [str(tmp_path), 99], "max_attempts": 2},
            {"function": "own/again", "args": [str(tmp_path), 1], "not_before": due},
        ],
    )
    done = await call("GET", f"/jobs/{again}?wait=30")
    assert (done["state"], done["result"], done["attempt"]) == ("succeeded", 3, 3)
    done = await call("GET", f"/jobs/{never}?wait=30")
    assert (done["state"], done["attempt"]) == ("failed", 2)
    assert "not yet" in done["error"]["message"]
    done = await call("GET", f"/jobs/{later}?wait=30")
    assert done["state"] == "succeeded"
    assert done["started"] >= due
    assert sorted((tmp_path / "attempts").read_text().split()) == ["1", "1", "1", "2", "2", "3"]
