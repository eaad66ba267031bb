"""Single jobs whose answers get lost: requests that are repeated under a key, results that are taken off the list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dts.config import Settings, load_settings
from dts.model import Function, first_id, new_id
from dts.server.app import Server
from dts.server.intake import unique
from dts.store import open_store
from tests.integration.conftest import Api, Site, check_refusal
from tests.services.fleet import open_sealed
from tests.services.mongodb import MongoServer
from tests.services.waiting import within


@pytest.fixture(params=["words", "id"])
def key(request: pytest.FixtureRequest) -> str:
    """A key of either kind: one that the server has to remember, and one that is an id."""
    return "a key: ~64 characters at most!" if request.param == "words" else new_id()


async def post(api: Api, params: object, key: str, *, status: int = 201) -> Any:
    """Submit jobs under a key; the ids."""
    answer = await api.send("POST", "/jobs/", msgspec.json.encode({"params": params}), Idempotency_Key=key)
    assert answer.code == status, answer.body
    return msgspec.json.decode(answer.body)["result"]


async def total(api: Api) -> int:
    return int((await api.call("GET", "/jobs/"))["statistics"]["total"])


def upper(*args: object, **more: object) -> dict[str, object]:
    return {"function": "text/upper", "args": args, **more}


async def test_a_repeat_is_answered_with_the_same_ids_and_makes_nothing(site: Site, key: str) -> None:
    api = site.api()
    params = [upper(1), {"function": "text/reverse"}, upper(2), upper(3, not_before=time.time() + 60)]
    ids = await post(api, params, key)
    assert len(set(ids)) == 4
    for _ in range(3):
        assert await post(api, params, key) == ids
    assert await total(api) == 4
    for job, asked in zip(ids, params, strict=True):
        seen = await api.call("GET", f"/jobs/{job}")
        assert (seen["function"], seen["args"]) == (asked["function"], list(asked.get("args", [])))
    assert sum(len(batch.jobs) for batch in await site.take_messages(3)) == 3


async def test_a_key_is_for_one_request_of_one_user(site: Site, key: str) -> None:
    api, alice = site.api(), await site.add_user("alice", namespaces=("*",))
    first = await post(api, upper("a"), key)
    for other in (upper("b"), [upper("a")], [upper("a"), upper("b")], {"function": "text/reverse", "args": ["a"]}):
        body = msgspec.json.encode({"params": other})
        answer = await api.send("POST", "/jobs/", body, Idempotency_Key=key)
        assert "choose a new key" in check_refusal(answer, 409, "key_conflict")
    assert await post(alice, upper("a"), key) != first
    assert await post(api, upper("a"), "another key") != first
    assert await post(api, upper("a"), key) == first


async def test_a_repeat_makes_nothing_where_some_jobs_are_unique(
    site: Site, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unique, "_PAUSES", (0.05,) * 1200)
    api = site.api()
    await api.call("PATCH", "/admin/functions/text%2Fupper", {"unique": 600})
    there = await api.call("POST", "/jobs/", upper("there"), status=201)
    params = [upper("a"), {"function": "text/reverse", "args": ["b"]}, upper("there"), upper("a")]
    answers = await asyncio.gather(*(post(api, params, key) for _ in range(4)))
    answers += [await post(api, params, key)]
    assert len({tuple(ids) for ids in answers}) == 1
    first, second, third, fourth = answers[0]
    assert (third, fourth) == (there, first)
    assert len({first, second, third}) == 3
    assert (await api.call("GET", f"/jobs/{second}"))["function"] == "text/reverse"
    assert await total(api) == 3
    body = msgspec.json.encode({"params": params[:2]})
    check_refusal(await api.send("POST", "/jobs/", body, Idempotency_Key=key), 409, "key_conflict")
    only = [upper("there"), upper("a")]
    assert await post(api, only, "another") == await post(api, only, "another") == [there, first]


async def test_repeats_at_the_same_time_make_one_job(site: Site, key: str) -> None:
    api = site.api()
    answers = await asyncio.gather(*(post(api, [upper(1), {"function": "text/reverse"}], key) for _ in range(8)))
    assert len({tuple(ids) for ids in answers}) == 1
    assert await total(api) == 2


async def test_a_repeat_is_answered_whatever_has_changed_since(site: Site, key: str) -> None:
    api, soon = site.api(), time.time() + 0.3
    params = [upper(1), upper(2, not_before=soon)]
    ids = await post(api, params, key)
    function = await site.store.get_function("text/upper")
    assert function is not None
    assert await site.store.replace_record(replace(function, enabled=False, version=2), version=1)
    await api.refused("POST", "/admin/functions/", {"id": "text/upper"}, status=409, code="already_exists")
    while time.time() <= soon:
        await asyncio.sleep(0.05)
    assert await post(api, params, key) == ids
    assert await total(api) == 2


async def test_a_repeat_after_the_deadline_is_answered_and_a_new_request_is_not(site: Site, key: str) -> None:
    api, soon = site.api(), time.time() + 0.3
    job = await post(api, upper("a", deadline=soon), key)
    while time.time() <= soon:
        await asyncio.sleep(0.05)
    assert await post(api, upper("a", deadline=soon), key) == job
    body = msgspec.json.encode({"params": upper("a", deadline=soon)})
    for again in ("new", "new", new_id()):
        answer = await api.send("POST", "/jobs/", body, Idempotency_Key=again)
        assert "deadline is over" in check_refusal(answer, 400, "argument_invalid")
    assert await total(api) == 1


async def test_what_is_no_valid_request_takes_no_key(site: Site, key: str) -> None:
    api = site.api()
    body = msgspec.json.encode({"params": upper("a", soft_timeout=2, timeout=1)})
    answer = await api.send("POST", "/jobs/", body, Idempotency_Key=key)
    assert "soft_timeout" in check_refusal(answer, 400, "argument_invalid")
    await post(api, upper("a", soft_timeout=1, timeout=2), key)


async def test_what_was_refused_at_first_can_be_repeated(site: Site, key: str) -> None:
    api = site.api()
    body = msgspec.json.encode({"params": {"function": "text/later"}})
    check_refusal(await api.send("POST", "/jobs/", body, Idempotency_Key=key), 404, "function_not_found")
    await site.store.add_function(Function("text/later"))
    async with within():
        while (await api.send("POST", "/jobs/", body, Idempotency_Key=key)).code != 201:
            await asyncio.sleep(0.1)
    assert await total(api) == 1


async def test_an_old_id_is_a_key_like_any_other(site: Site) -> None:
    api, key = site.api(), first_id(time.time() - 7 * 86400)[:10] + new_id()[10:]
    ids = await post(api, upper("a"), key)
    assert await post(api, upper("a"), key) == ids
    assert await total(api) == 1
    fresh = new_id()
    accepted = await post(api, upper("b"), fresh)
    assert accepted[:10] == fresh[:10], "ids go on being sorted by time"
    assert accepted[10:26] != fresh[10:], "and nobody chooses the id of a run"


@pytest.mark.parametrize("key", ["", "x" * 65, "schl\xfcssel", "tab\there"])
async def test_what_cannot_be_a_key(key: str, site: Site) -> None:
    body = msgspec.json.encode({"params": upper("a")})
    answer = await site.api().send("POST", "/jobs/", body, Idempotency_Key=key)
    assert "1 to 64" in check_refusal(answer, 400, "argument_invalid")


# what has been read


async def ended(site: Site, api: Api, count: int, **how: Any) -> list[str]:
    """Ids of jobs that have ended."""
    ids = await api.call("POST", "/jobs/", [upper(number) for number in range(count)], status=201)
    for batch in await site.take_messages(count):
        await site.finish(batch, **how)
    for job in ids:
        await api.call("GET", f"/jobs/{job}?wait=10")
    return list(ids)


async def test_what_was_read_is_taken_off_the_retrievables(site: Site) -> None:
    api = site.api()
    ids = await ended(site, api, 5, fail=(1,))
    assert (await api.call("GET", "/jobs/"))["retrievables"] == ids, "reading alone takes nothing off"
    assert await api.call("POST", "/jobs/collected", {"ids": ids[1:3]}) == {"jobs": 2}
    assert await api.call("POST", "/jobs/collected", {"ids": ids[2:4]}) == {"jobs": 1}
    assert (await api.call("GET", "/jobs/"))["retrievables"] == [ids[0], ids[4]]
    assert (await api.call("GET", f"/jobs/{ids[2]}"))["result"] == "done", "it can be read again"


async def test_only_ended_jobs_of_ones_own_are_collected(site: Site) -> None:
    api, alice = site.api(), await site.add_user("alice")
    ids = await ended(site, api, 1)
    waiting = await api.call("POST", "/jobs/", upper("a"), status=201)
    strange = [waiting, "nonsense", "", ids[0] + "7", "\u0000", "x" * 1000]
    assert await api.call("POST", "/jobs/collected", {"ids": strange}) == {"jobs": 0}
    assert await alice.call("POST", "/jobs/collected", {"ids": ids}) == {"jobs": 0}
    assert (await api.call("GET", "/jobs/"))["retrievables"] == ids
    await api.refused("POST", "/jobs/collected", {"ids": ids * 1001}, status=400, code="argument_invalid")
    await api.refused("POST", "/jobs/collected", {}, status=400, code="argument_missing")
    await api.refused("GET", "/jobs/collected", status=405, code="method_not_allowed")


async def test_a_thousand_at_a_time_drain_what_is_there(site: Site) -> None:
    api = site.api()
    ids = await ended_quickly(site, api, 1500)
    seen: list[str] = []
    while page := (await api.call("GET", "/jobs/"))["retrievables"]:
        assert len(page) <= 1000
        seen += page
        assert await api.call("POST", "/jobs/collected", {"ids": page}) == {"jobs": len(page)}
    assert seen == ids


async def ended_quickly(site: Site, api: Api, count: int) -> list[str]:
    ids = await api.call("POST", "/jobs/", [upper(number) for number in range(count)], status=201)
    for batch in await site.take_messages(count):
        await site.finish(batch)
    async with within():
        while (await api.call("GET", "/jobs/"))["statistics"]["succeeded"] < count:
            await asyncio.sleep(0.05)
    return list(ids)


# the same on MongoDB, with two servers


@pytest.fixture
async def sites(tmp_path: Path, mongo: MongoServer) -> AsyncIterator[list[Site]]:
    """Two servers on one MongoDB."""
    flags = {
        "store": {"url": mongo.url(f"repeats_{tmp_path.name[-20:]}")},
        "broker": {"url": f"sqlite:///{tmp_path}/queue.db"},
        "server": {"port": 0, "key_file": f"{tmp_path}/key", "admin_secret_file": f"{tmp_path}/secret"},
    }
    settings: Settings = load_settings(None, environment={}, flags=flags)
    async with (
        Server(settings) as one,
        Server(settings) as other,
        open_store(settings.store.url) as store,
        open_sealed(settings) as broker,
    ):
        yield [Site(f"http://127.0.0.1:{server.port}", settings, store, broker) for server in (one, other)]


async def test_repeats_at_two_servers_make_one_job(sites: list[Site]) -> None:
    apis = [site.api() for site in sites]
    for key in ("k1", "k2", new_id()):
        answers = await asyncio.gather(*(post(apis[at % 2], [upper(at % 1)], key) for at in range(8)))
        assert len({tuple(ids) for ids in answers}) == 1
    assert await total(apis[0]) == 3
    [batch, *_] = await sites[0].take_messages(3)
    await sites[0].finish(batch)
    async with within():
        while not (page := (await apis[1].call("GET", "/jobs/"))["retrievables"]):
            await asyncio.sleep(0.02)
    assert await apis[0].call("POST", "/jobs/collected", {"ids": page}) == {"jobs": 1}


async def test_a_key_is_not_kept_of_a_request_that_is_refused(site: Site) -> None:
    """Neither rights nor limits allow it: nothing is stored, however many keys somebody tries."""
    stranger = await site.add_user("stranger")
    await site.api().call("PATCH", "/admin/users/stranger", {"limits": {"unfinished": 1}})
    for number in range(3):
        body = msgspec.json.encode({"params": upper("x")})
        check_refusal(await stranger.send("POST", "/jobs/", body, Idempotency_Key=f"k{number}"), 403, "forbidden")
        assert await site.store.find_request("stranger", f"k{number}") is None
    await site.api().call("PATCH", "/admin/users/stranger", {"namespaces": ["text"]})
    [first] = [await post(stranger, upper("y"), "good")]
    body = msgspec.json.encode({"params": upper("z")})
    check_refusal(await stranger.send("POST", "/jobs/", body, Idempotency_Key="over"), 429, "limit_exceeded")
    assert await site.store.find_request("stranger", "over") is None
    assert await post(stranger, upper("y"), "good") == first  # a repeat is answered, over the limit or not
    await site.api().call("PATCH", "/admin/users/stranger", {"namespaces": []})
    assert await post(stranger, upper("y"), "good") == first
