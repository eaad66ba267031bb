"""Every answer says which request it answers, and so does the log."""

from __future__ import annotations

import logging

import pytest

from dts.runtime.logs import EscapingFormatter
from tests.integration.conftest import Site


@pytest.mark.parametrize("given", ["abc-1", "a/b+c=:._", "x" * 128])
async def test_the_id_of_a_request_comes_back(site: Site, given: str) -> None:
    for path, sign in (("/jobs/", True), ("/health/live", False), ("/nowhere", False), ("/jobs/", False)):
        answer = await site.api().send("GET", path, sign=sign, X_Request_ID=given)
        assert answer.headers.get_list("X-Request-ID") == [given], path


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ü", 'a"b'])
async def test_what_can_be_no_id_gets_another(site: Site, given: str) -> None:
    ids = {(await site.api().send("GET", "/jobs/", X_Request_ID=given)).headers["X-Request-ID"] for _ in range(2)}
    assert len(ids) == 2
    assert given not in ids


async def test_the_log_names_the_request(site: Site) -> None:
    lines: list[str] = []
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("%(message)s"))
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    logging.getLogger("dts").addHandler(handler)
    try:
        caller = await site.add_user("alice")
        await caller.send("POST", "/jobs/", b'{"params": {"function": "server/ping"}}', X_Request_ID="mine")
    finally:
        logging.getLogger("dts").removeHandler(handler)
    assert [line for line in lines if "who is no administrator, asked for" in line and line.endswith("[request mine]")]
