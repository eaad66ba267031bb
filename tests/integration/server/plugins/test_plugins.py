"""Functions that run inside the server."""

from __future__ import annotations

import logging

import pytest

from dts.config import Settings
from dts.server import plugins
from dts.server.app import Server
from tests.integration.conftest import Site


async def test_a_plugin_runs_as_a_job_with_a_record(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "server/ping"}, status=201)
    done = await api.call("GET", f"/jobs/{job}?wait=10")
    assert (done["state"], done["result"], done["function"]) == ("succeeded", "pong", "server/ping")
    assert done["worker"].startswith("server-")
    assert (await api.call("GET", "/jobs/"))["retrievables"] == [job]
    job = await api.call("POST", "/jobs/", {"function": "server/describe"}, status=201)
    facts = (await api.call("GET", f"/jobs/{job}?wait=10"))["result"]
    assert facts["plugins"] == plugins.names()
    assert facts["store"] == "SqliteStore"


async def test_a_plugin_that_fails_fails_its_job(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "server/ping", "args": ["too many"]}, status=201)
    done = await api.call("GET", f"/jobs/{job}?wait=10")
    assert (done["state"], done["error"]["type"]) == ("failed", "TypeError")
    await api.refused("POST", "/jobs/", {"function": "server/none"}, status=404, code="function_not_found")


async def test_a_notice_is_sent_by_a_job(site: Site) -> None:
    api = site.api()
    kwargs = {"to": ["ann@example.com", "https://example.com/"], "title": "done", "event": "import-7"}
    for new in (2, 0):
        job = await api.call("POST", "/jobs/", {"function": "server/notify", "kwargs": kwargs}, status=201)
        assert (await api.call("GET", f"/jobs/{job}?wait=30"))["result"] == new
    notices = await api.call("GET", "/admin/alerts/notices/")
    assert [(each["kind"], each["title"]) for each in notices] == [("message", "done")] * 2


async def test_plugins_are_for_administrators(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for role in ("user", "developer", "operator"):
        caller = await site.add_user(role, roles={role}, namespaces=("server", "*"))
        for path in ("/jobs/", "/runs/"):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                message = await caller.refused("POST", path, {"function": "server/ping"}, status=403, code="forbidden")
            assert message == "server/ping runs inside the server: for administrators only"
            assert f"{role}, who is no administrator, asked for 'server/ping'" in caplog.text


async def test_among_several_functions_a_plugin_is_seen(site: Site) -> None:
    boss = await site.add_user("boss", roles={"operator"})
    jobs: list[dict[str, str]] = [{"function": "text/upper"}, {"function": "server/ping"}]
    message = await boss.refused("POST", "/jobs/", jobs, status=403, code="forbidden")
    assert "for administrators only" in message
    for params in (jobs[:1], [], 5, None, {"function": 5}):
        message = await boss.refused("POST", "/jobs/", params, status=403, code="forbidden")
        assert "needs the role administrator or developer or user" in message


async def test_a_plugins_job_outlives_the_server_that_took_it(site: Site, settings: Settings) -> None:
    """Whatever server is there runs it: it waits in the store and the broker like any job."""
    run = await site.api().call("POST", "/runs/", {"function": "server/ping"}, status=201)
    async with Server(settings) as second:
        api = site.api()
        api.url = f"http://127.0.0.1:{second.port}"
        assert (await api.send("PUT", f"/runs/{run['id']}/blocks/0", b"{}\n{}\n{}\n")).code == 201
        answer = await api.send("GET", f"/runs/{run['id']}/results?wait=10")
        assert answer.body.count(b'"pong"') == 3
