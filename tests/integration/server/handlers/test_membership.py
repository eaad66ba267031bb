"""Who belongs to a namespace: nobody keeps a place in one that was deleted."""

from __future__ import annotations

import asyncio

from tests.integration.conftest import Site


async def test_members_of_a_deleted_namespace_are_not_members_of_a_new_one(site: Site) -> None:
    admin = site.api()
    await admin.call("POST", "/admin/namespaces/", {"id": "own"}, status=201)
    await admin.call("POST", "/admin/namespaces/", {"id": "other"}, status=201)
    await admin.call("POST", "/admin/functions/", {"id": "own/price"}, status=201)
    users = [await site.add_user(name, namespaces=("other", "own")) for name in ("ann", "bob")]
    await users[0].call("POST", "/runs/", {"function": "own/price"}, status=201)
    await admin.call("DELETE", "/admin/namespaces/own?force=true")
    await admin.call("POST", "/admin/namespaces/", {"id": "own"}, status=201)
    await admin.call("POST", "/admin/functions/", {"id": "own/price"}, status=201)
    assert (await admin.call("GET", "/admin/users/ann"))["namespaces"] == ["other"]
    for user in users:
        await user.refused("POST", "/runs/", {"function": "own/price"}, status=403, code="forbidden")


async def test_a_namespace_that_is_there_keeps_its_members(site: Site) -> None:
    admin = site.api()
    await admin.call("POST", "/admin/namespaces/", {"id": "own"}, status=201)
    ann = await site.add_user("ann", namespaces=("own",))
    answers = await asyncio.gather(
        *(admin.send("POST", "/admin/namespaces/", b'{"params": {"id": "own"}}') for _ in "ab")
    )
    assert [answer.code for answer in answers] == [409, 409]
    assert (await ann.call("GET", "/whoami"))["namespaces"] == ["own"]
