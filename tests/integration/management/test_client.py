"""AdminClient against a real server: administrators at the same time, errors by status, long lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dts.auth import new_secret
from dts.client import notices, transport
from dts.errors import InvalidName, RequestRefused, ServerUnavailable
from dts.management import AdminClient
from dts.management.api.chain import check_chain
from dts.management.api.resources import Record
from dts.model import Namespace
from dts.server.audit.log import OperationLog, Verdict
from tests.integration.conftest import Site


def connect(site: Site, user: str = "admin", secret: str | None = None) -> AdminClient:
    secret = secret or site.settings.server.admin_secret_file.read_text().strip()
    return AdminClient(user, secret, site.url, give_up_after=2.0)


@pytest.fixture
async def client(site: Site) -> AsyncIterator[AdminClient]:
    async with connect(site) as client:
        yield client


async def test_who_is_signed_in(client: AdminClient) -> None:
    user = await client.login()
    assert (user["id"], user["roles"]) == ("admin", ["administrator"])


async def test_administrators_at_the_same_time_lose_nothing(site: Site, client: AdminClient) -> None:
    await client.users.add("alice", secret=new_secret())

    async def add_namespace(name: str) -> None:
        async with connect(site) as other:
            await other.users.modify("alice", lambda user: {"namespaces": [*user["namespaces"], name]})

    await asyncio.gather(*(add_namespace(name) for name in ("demo", "math", "text")))
    assert set((await client.users.get("alice"))["namespaces"]) == {"demo", "math", "text"}


async def test_a_dozen_at_the_same_time_lose_nothing(client: AdminClient) -> None:
    await client.users.add("alice", secret=new_secret(), limits={"unfinished": 0})

    def one_more(user: Record) -> Record:
        return {"limits": {"unfinished": user["limits"]["unfinished"] + 1}}

    await asyncio.gather(*(client.users.modify("alice", one_more) for _ in range(12)))
    assert (await client.users.get("alice"))["limits"] == {"unfinished": 12}


async def test_different_fields_at_the_same_time(client: AdminClient) -> None:
    await client.users.add("alice", secret=new_secret())
    await asyncio.gather(
        client.users.update("alice", email="a@example.org"),
        client.users.update("alice", roles=["developer"]),
        client.users.update("alice", limits={"running": 3}),
    )
    alice = await client.users.get("alice")
    assert (alice["email"], alice["roles"], alice["limits"]) == ("a@example.org", ["developer"], {"running": 3})
    assert alice["version"] == 4


@pytest.mark.parametrize(
    ("user_id", "fields", "status", "code"),
    [
        ("admin", {"secret": "long enough"}, 409, "already_exists"),
        ("alice", {"secret": "short"}, 400, "argument_invalid"),
        ("alice", {"secret": "long enough", "colour": "red"}, 400, "argument_invalid"),
        ("Alice", {"secret": "long enough"}, 400, "name_invalid"),
    ],
)
async def test_refusals_have_status_and_code(
    user_id: str, fields: dict[str, str], status: int, code: str, client: AdminClient
) -> None:
    with pytest.raises(RequestRefused) as caught:
        await client.users.add(user_id, **fields)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert fields["secret"] not in caught.value.message


async def test_a_delete_of_another_version_is_refused(client: AdminClient) -> None:
    await client.namespaces.add("crm")
    await client.namespaces.update("crm", description="new")
    with pytest.raises(RequestRefused) as caught:
        await client.namespaces.delete("crm", version=1)
    assert caught.value.status == 412
    await client.namespaces.delete("crm", version=2)


async def test_ids_that_are_none(site: Site, client: AdminClient) -> None:
    for strange in ("no/body", "x" * 5000, "a%2Fb", "a?b=c", "\x00"):
        with pytest.raises(RequestRefused) as caught:
            await client.users.get(strange)
        assert caught.value.status in (400, 404)
    with pytest.raises(InvalidName):
        connect(site, "No Body", "secret")


async def test_a_wrong_secret_and_a_server_that_is_not_there(site: Site) -> None:
    async with connect(site, "admin", "wrong secret") as client:
        with pytest.raises(RequestRefused) as caught:
            await client.login()
    assert caught.value.status == 401
    async with AdminClient("admin", "s", "http://127.0.0.1:1", give_up_after=0.0) as client:
        with pytest.raises(ServerUnavailable):
            await client.login()


async def test_a_long_list_comes_in_pages(site: Site, client: AdminClient) -> None:
    names = [f"n{number:04}" for number in range(1100)]
    for name in names:
        await site.store.add_record(Namespace(name))
    pages = [len(page) async for page in client.namespaces.pages(after="n")]
    assert sum(pages) >= len(names)
    assert max(pages) == 500
    listed = [row["id"] async for row in client.namespaces.list()]
    assert [name for name in listed if name in names] == names


async def test_a_new_secret_works_at_once_and_the_old_one_for_a_while(site: Site, client: AdminClient) -> None:
    secret = new_secret()
    await client.change_secret(secret, grace=60)
    async with connect(site, "admin", secret) as renewed:
        await renewed.login()
    await client.login()


async def test_who_may_ask_for_a_diagnosis(site: Site, client: AdminClient) -> None:
    for role, status in (("operator", 200), ("developer", 403), ("user", 403)):
        secret = new_secret()
        await client.users.add(f"a{role}", secret=secret, roles=[role])
        async with connect(site, f"a{role}", secret) as other:
            if status == 200:
                assert (await other.diagnose())["store"]["state"] == "ok"
            else:
                with pytest.raises(RequestRefused) as caught:
                    await other.diagnose()
                assert caught.value.status == status


async def test_a_verification_may_take_longer_than_a_server_that_is_away_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = OperationLog.verify

    async def slowly(self: OperationLog) -> Verdict:
        await asyncio.sleep(0.5)
        return await verify(self)

    monkeypatch.setattr(OperationLog, "verify", slowly)
    monkeypatch.setattr(transport, "_SHORTEST_TRY", 0.1)
    monkeypatch.setattr(notices, "PATIENCE", 0.1)
    told: list[str] = []
    secret = site.settings.server.admin_secret_file.read_text().strip()
    async with AdminClient("admin", secret, site.url, give_up_after=0.1, notify=told.append) as client:
        assert (await client.operations.verify())["valid"]
    assert told == [], "it is not away"


async def test_entries_that_come_while_the_log_is_verified_change_nothing(client: AdminClient) -> None:
    await client.namespaces.add("crm")
    verify = client.operations.verify

    async def verify_then_others_write() -> dict[str, object]:
        answer = await verify()
        await client.namespaces.update("crm", description=str(answer["last"]))
        return answer

    client.operations.verify = verify_then_others_write  # type: ignore[method-assign]
    for entries in (2, 4, 6):
        verdict = await check_chain(client.operations)
        assert (verdict.valid, verdict.entries) == (True, entries)


async def test_a_server_that_shows_less_than_it_verified_is_told_of(client: AdminClient) -> None:
    await client.namespaces.add("crm")
    answer = await client.operations.verify()

    async def boast() -> dict[str, object]:
        return {**answer, "entries": 3, "last": 3}

    client.operations.verify = boast  # type: ignore[method-assign]
    verdict = await check_chain(client.operations)
    assert [fault["seq"] for fault in verdict.faults] == [3]
    assert "verified 3 entries" in verdict.faults[0]["problem"]


async def test_the_chain_of_a_real_log_is_whole(client: AdminClient) -> None:
    await client.namespaces.add("crm")
    await client.namespaces.delete("crm")
    verdict = await check_chain(client.operations)
    assert (verdict.valid, verdict.entries) == (True, 4)


async def test_runs_of_single_jobs_are_listed_when_they_are_asked_for(site: Site, client: AdminClient) -> None:
    await site.api().call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    for runs in (client.runs, client.own_runs):
        assert [run async for run in runs.list()] == []
        assert [run["single"] async for run in runs.list(all=True)] == [True]
