"""Limits of users, namespaces and functions: enforced at the door, changed while everything runs."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from tornado.httpclient import HTTPResponse

from tests.integration.conftest import Api, Site, check_refusal
from tests.services.waiting import within

SUBJECTS = {
    "users/bob": "user bob",
    "namespaces/text": "namespace text",
    "functions/text%2Fupper": "function text/upper",
}


def check_limit(answer: HTTPResponse, limit: str) -> None:
    """Check that an answer says which limit it was, and when to come back."""
    message = check_refusal(answer, 429, "limit_exceeded")
    assert msgspec.json.decode(answer.body)["error"]["limit"] == limit
    assert limit in message
    assert int(answer.headers["Retry-After"]) >= 1


async def post_jobs(api: Api, count: int) -> HTTPResponse:
    """Send so many jobs in one request."""
    jobs = [{"function": "text/upper"}] * count
    return await api.send("POST", "/jobs/", msgspec.json.encode({"params": jobs}))


@pytest.mark.parametrize("path", SUBJECTS)
async def test_unfinished_jobs_have_a_limit_that_is_changed_live(site: Site, path: str) -> None:
    admin, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    await admin.call("PATCH", f"/admin/{path}", {"limits": {"unfinished": 5}})
    assert (await post_jobs(bob, 4)).code == 201
    check_limit(await post_jobs(bob, 2), f"{SUBJECTS[path]}: unfinished")
    assert (await post_jobs(bob, 1)).code == 201
    check_limit(await post_jobs(bob, 1), f"{SUBJECTS[path]}: unfinished")
    await admin.call("PATCH", f"/admin/{path}", {"limits": {"unfinished": 6}})
    assert (await post_jobs(bob, 1)).code == 201
    for batch in await site.take_messages(6):
        await site.finish(batch)
    async with within():
        while (await post_jobs(bob, 6)).code != 201:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", SUBJECTS)
async def test_what_can_never_fit_is_not_told_to_try_again(site: Site, path: str) -> None:
    admin, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    for limit in (2, 0):
        await admin.call("PATCH", f"/admin/{path}", {"limits": {"unfinished": limit}})
        answer = await post_jobs(bob, 3)
        message = check_refusal(answer, 413, "too_large")
        assert f"{SUBJECTS[path]}: unfinished allows {limit} jobs" in message
        assert "Retry-After" not in answer.headers


async def test_what_is_refused_uses_up_nobodys_rate(site: Site) -> None:
    admin, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    ann = await site.add_user("ann", namespaces=("text",))
    await admin.call("PATCH", "/admin/functions/text%2Fupper", {"limits": {"requests_per_second": 0.1}})
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"unfinished": 0}})
    for _ in range(3):
        assert (await post_jobs(bob, 1)).code == 413
    assert (await post_jobs(ann, 1)).code == 201


async def test_nobody_is_told_to_wait_for_longer_than_a_minute(site: Site) -> None:
    admin, bob = site.api(), await site.add_user("bob")
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"requests_per_second": 0.001}})
    answers = [await bob.send("GET", "/jobs/") for _ in range(2)]
    check_limit(answers[1], "user bob: requests_per_second")
    assert answers[1].headers["Retry-After"] == "60"
    await admin.refused(
        "PATCH", "/admin/users/bob", {"limits": {"requests_per_second": 1e-4}}, status=400, code="argument_invalid"
    )


async def test_no_limit_keeps_an_administrator_from_lifting_it(site: Site) -> None:
    admin = site.api()
    await admin.call("PATCH", "/admin/users/admin", {"limits": {"requests_per_second": 0.001}})
    for _ in range(3):
        assert (await admin.call("GET", "/whoami"))["limits"] == {"requests_per_second": 0.001}
        await admin.call("GET", "/admin/users/")
    answers = [await admin.send("GET", "/jobs/") for _ in range(2)]
    check_limit(answers[1], "user admin: requests_per_second")
    await admin.call("PATCH", "/admin/users/admin", {"limits": {"requests_per_second": None}})
    boss = await site.add_user("boss", roles={"operator"})
    await admin.call("PATCH", "/admin/users/boss", {"limits": {"requests_per_second": 0.001}})
    check_limit([await boss.send("GET", "/admin/users/") for _ in range(2)][1], "user boss: requests_per_second")


async def test_of_jobs_that_come_at_the_same_time_no_more_than_the_limit_get_in(site: Site) -> None:
    admin, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"unfinished": 10}})
    answers = await asyncio.gather(*(post_jobs(bob, 3) for _ in range(10)))
    taken = sum(answer.code == 201 for answer in answers)
    assert 1 <= taken <= 3
    assert await site.store.count_unfinished(user="bob") == 3 * taken


async def test_a_run_comes_in_blocks_that_fit_its_limits(site: Site) -> None:
    admin, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"unfinished": 5}})
    run = await bob.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    assert (run["block_size"], run["block_jobs"]) == (64, 5)
    blocks = f"/runs/{run['id']}/blocks"
    answer = await bob.send("PUT", f"{blocks}/0", b"{}\n" * 5)
    assert (answer.code, msgspec.json.decode(answer.body)["result"]) == (201, {"block": 0, "jobs": 5, "block_jobs": 5})
    assert (await bob.send("PUT", f"{blocks}/0", b"{}\n" * 5)).code == 200, "a repeat is welcome at any time"
    check_limit(await bob.send("PUT", f"{blocks}/1", b"{}\n" * 5), "user bob: unfinished")
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"unfinished": 3}})
    for batch in await site.take_messages(5):
        await site.finish(batch)
    async with within():
        while (await bob.send("PUT", f"{blocks}/1", b"{}\n" * 5)).code != 201:
            await asyncio.sleep(0.02)  # larger than the limit by now, and let in since there is nothing else


async def test_a_limit_that_is_lifted_does_not_slow_the_rest_of_a_run(site: Site) -> None:
    admin, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"unfinished": 1}})
    run = await bob.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"unfinished": 1000}})
    async with within():
        for number in itertools.count():
            answer = await bob.send("PUT", f"/runs/{run['id']}/blocks/{number}", b"{}\n")
            if answer.code == 201 and msgspec.json.decode(answer.body)["result"]["block_jobs"] == 64:
                break
            await asyncio.sleep(0.02)  # until every record is read anew
    assert (await bob.send("PUT", f"/runs/{run['id']}/blocks/{number + 1}", b"{}\n" * 64)).code == 201


async def test_no_run_is_opened_while_a_limit_lets_nothing_in(site: Site) -> None:
    admin, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    await admin.call("PATCH", "/admin/namespaces/text", {"limits": {"unfinished": 0}})
    async with within():
        while (answer := await post_run(bob)).code == 201:
            await asyncio.sleep(0.02)
    check_limit(answer, "namespace text: unfinished")
    await admin.call("PATCH", "/admin/namespaces/text", {"limits": {"unfinished": None}})
    async with within():
        while (answer := await post_run(bob)).code != 201:
            await asyncio.sleep(0.02)
    run = msgspec.json.decode(answer.body)["result"]
    assert run["block_size"] == run["block_jobs"] == 2048


async def post_run(api: Api) -> HTTPResponse:
    return await api.send("POST", "/runs/", msgspec.json.encode({"params": {"function": "text/upper"}}))


async def test_requests_a_second_of_a_user_count_whatever_they_ask(site: Site) -> None:
    admin, bob = site.api(), await site.add_user("bob")
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"requests_per_second": 3}})
    answers = [await bob.send("GET", "/whoami") for _ in range(6)]
    assert [answer.code for answer in answers[:3]] == [200] * 3
    check_limit(next(answer for answer in answers if answer.code != 200), "user bob: requests_per_second")
    await admin.call("PATCH", "/admin/users/bob", {"limits": {"requests_per_second": None}})
    assert {(await bob.send("GET", "/whoami")).code for _ in range(6)} == {200}


@pytest.mark.parametrize("path", list(SUBJECTS)[1:])
async def test_requests_a_second_of_a_function_are_those_that_bring_jobs(site: Site, path: str) -> None:
    admin, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    await admin.call("PATCH", f"/admin/{path}", {"limits": {"requests_per_second": 0.1}})
    assert (await post_jobs(bob, 3)).code == 201
    check_limit(await post_jobs(bob, 1), f"{SUBJECTS[path]}: requests_per_second")
    assert (await bob.send("GET", "/jobs/")).code == 200
