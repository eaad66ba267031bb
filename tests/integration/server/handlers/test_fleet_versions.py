"""`/fleet/versions/…`: workers fetch sources with the fleet's key, and nobody does without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dts.auth import KeccakAuthenticator, Request
from dts.errors import FunctionMissing, ImportFailed, ServerUnavailable
from dts.model import Function
from dts.model.documents import Document
from dts.runtime.fleet_key import make_fleet_key, read_fleet_key
from dts.server.versions.library import COLLECTION, add_version, new_version
from dts.wire.archive import SourceFile, pack, version_of
from dts.wire.fleet_access import fleet_credentials, version_path
from dts.wire.seal import Seal
from dts.worker.versions.fetch import VersionFetcher
from tests.integration.conftest import Api, Site, check_refusal

SOURCE = {"stats.py": SourceFile(b"def main(x): return x\n"), "tool": SourceFile(b"#!/bin/sh\n", executable=True)}
VERSION = version_of(SOURCE)


async def a_version(site: Site) -> Seal:
    """A version in the store; the fleet's seal."""
    await site.store.add_record(Function("text/stats"))
    await add_version(site.store, new_version("text/stats", SOURCE, user="ann", message=""), SOURCE)
    seal = read_fleet_key(site.settings.fleet_key_file)
    assert seal is not None
    return seal


async def test_a_worker_gets_what_was_deployed(site: Site) -> None:
    seal = await a_version(site)
    fetcher = VersionFetcher(site.url + "/", seal)
    assert await fetcher.fetch("text/stats", VERSION) == SOURCE
    with pytest.raises(FunctionMissing, match="no version 000000000000"):
        await fetcher.fetch("text/stats", "0" * 64)
    with pytest.raises(FunctionMissing):
        await fetcher.fetch("text/other", VERSION)
    fetcher.close()


async def test_what_has_another_hash_is_not_taken(site: Site) -> None:
    seal = await a_version(site)
    other = {"stats.py": SourceFile(b"def main(x): return 'evil'\n")}
    for body, said in ((pack(other), "another hash"), (b"rubbish", "damaged")):
        await site.store.put_documents([Document(COLLECTION, f"text/stats@{VERSION}", {}, "text/stats", body=body)])
        fetcher = VersionFetcher(site.url, seal)
        with pytest.raises(ImportFailed, match=said):
            await fetcher.fetch("text/stats", VERSION)
        fetcher.close()


async def test_a_server_that_is_not_there_may_come_back(site: Site) -> None:
    seal = await a_version(site)
    fetcher = VersionFetcher("http://127.0.0.1:9", seal)
    with pytest.raises(ServerUnavailable, match="does not answer"):
        await fetcher.fetch("text/stats", VERSION)
    fetcher.close()


async def test_nobody_without_the_fleets_key_gets_a_source(site: Site, tmp_path: Path) -> None:
    await a_version(site)
    path = version_path("text/stats", VERSION)
    for caller in (
        site.api(),  # an administrator has another way
        await site.add_user("fleet", roles=("administrator",)),  # and a name proves nothing
        Api(site.url, fleet_credentials(make_fleet_key(tmp_path / "other.key", b"k" * 32))[0]),
    ):
        check_refusal(await caller.send("GET", path), 401, "unauthorized")
    check_refusal(await site.api().send("GET", path, sign=False), 401, "unauthorized")


async def test_the_fleets_key_opens_nothing_else_and_a_request_serves_once(site: Site) -> None:
    seal = await a_version(site)
    fleet = Api(site.url, fleet_credentials(seal)[0])
    for method, path in (("GET", "/whoami"), ("GET", "/admin/users/"), ("POST", "/runs/")):
        check_refusal(await fleet.send(method, path), 401, "unauthorized")
    path = version_path("text/stats", VERSION)
    header = KeccakAuthenticator(fleet_credentials(seal)[0]).sign(Request.to("GET", site.url + path))
    assert (await fleet.send("GET", path, sign=False, Authorization=header)).code == 200
    check_refusal(await fleet.send("GET", path, sign=False, Authorization=header), 401, "unauthorized")


async def test_a_key_that_is_on_its_way_out_still_counts(site: Site) -> None:
    await a_version(site)
    lines = site.settings.fleet_key_file.read_text().split()
    old = Seal([lines[0].encode()])
    both = Seal([b"n" * 32, lines[0].encode()])
    assert fleet_credentials(both)[1] == fleet_credentials(old)[0]
    assert fleet_credentials(both)[0] != fleet_credentials(old)[0]
