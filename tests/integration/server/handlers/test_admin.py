"""Administration over REST: records, their versions, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
import pytest

from dts.auth import Credentials
from dts.model import User
from dts.server.access.key_box import KeyBox
from tests.integration.conftest import Api, Site, a_run_with_jobs, check_refusal

NEW: dict[str, dict[str, Any]] = {
    "users": {"id": "alice", "secret": "correct horse"},
    "namespaces": {"id": "lab"},
    "functions": {"id": "text/new"},
    "vhosts": {"id": "host-1.example", "ssh_key": "PRIVATE", "ssh_pem_cert": "CERT"},
    "schedules": {"id": "nightly", "function": "text/upper", "every": 86400.0, "args": ["a"]},
}
CHANGES: dict[str, dict[str, Any]] = {
    "users": {"email": "a@b", "roles": ["developer", "user"], "limits": {"unfinished": 3}},
    "namespaces": {"description": "é", "limits": {"retention": 5}},
    "functions": {"route": "far", "timeout": 2.5, "retry_on": ["OSError"], "enabled": False},
    "vhosts": {"address": "10.0.0.1", "port": 2222, "routes": ["a", "b"]},
    "schedules": {"overlap": "queue", "catch_up": 5.0, "description": "é"},
}
KINDS = list(NEW)


def path_of(kind: str) -> str:
    return f"/admin/{kind}/{NEW[kind]['id'].replace('/', '%2F')}"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_record_from_its_making_to_its_end(site: Site, kind: str) -> None:
    api, path = site.api(), path_of(kind)
    await api.refused("GET", path, status=404, code="not_found")
    made = await api.call("POST", f"/admin/{kind}/", NEW[kind], status=201)
    assert (made["id"], made["version"]) == (NEW[kind]["id"], 1)
    assert made["created"] == made["modified"] == pytest.approx(time.time(), abs=10)
    await api.refused("POST", f"/admin/{kind}/", NEW[kind], status=409, code="already_exists")
    assert await api.call("GET", path) == made
    changed = await api.call("PATCH", path, CHANGES[kind])
    assert changed == {**made, **CHANGES[kind], "version": 2, "modified": changed["modified"]}
    assert await api.call("GET", path) == changed
    assert changed in await api.call("GET", f"/admin/{kind}/")
    assert await api.call("PATCH", path, dict.fromkeys(CHANGES[kind])) | {"modified": 0} == made | {
        "version": 3,
        "modified": 0,
    }, "null sets a field back to its default"
    assert await api.call("DELETE", path) == {"id": NEW[kind]["id"]}
    for method in ("GET", "PATCH", "DELETE"):
        await api.refused(method, path, {} if method == "PATCH" else None, status=404, code="not_found")


@pytest.mark.parametrize("kind", KINDS)
async def test_who_changes_what_they_have_not_seen_is_told_so(site: Site, kind: str) -> None:
    api, path = site.api(), path_of(kind)
    await api.call("POST", f"/admin/{kind}/", NEW[kind], status=201)
    body = msgspec.json.encode({"params": CHANGES[kind]})
    seen = (await api.send("GET", path)).headers["ETag"]
    answers = await asyncio.gather(*(api.send("PATCH", path, body, If_Match=seen) for _ in range(4)))
    assert sorted(answer.code for answer in answers) == [200, 412, 412, 412]
    [done] = [answer for answer in answers if answer.code == 200]
    assert done.headers["ETag"] == '"2"'
    change = msgspec.json.encode({"params": {**CHANGES[kind]}})
    for stale in ('"1", "3"', 'W/"2"', "2", '"1" "2"', "", '"12"', '"x,"'):
        check_refusal(await api.send("PATCH", path, change, If_Match=stale), 412, "version_mismatch")
    check_refusal(await api.send("PATCH", path, b'{"params": {}}'), 400, "argument_missing")
    check_refusal(await api.send("DELETE", path, If_Match=seen), 412, "version_mismatch")
    assert (await api.send("DELETE", path, If_Match='"1",W/"2" , "2", "x"')).code == 200


async def test_changes_without_a_version_all_apply(site: Site) -> None:
    api = site.api()
    await api.call("POST", "/admin/users/", NEW["users"], status=201)
    limits = ["unfinished", "running", "requests_per_second", "retention"]
    await asyncio.gather(*(api.call("PATCH", "/admin/users/alice", {"limits": {name: 9}}) for name in limits))
    alice = await api.call("GET", "/admin/users/alice")
    assert alice["limits"] == dict.fromkeys(limits, 9)
    assert alice["version"] == 5


async def test_lists_page_and_filter(site: Site) -> None:
    api = site.api()
    for number in range(5):
        roles = ["operator"] if number % 2 else ["user", "developer"]
        user = {"id": f"u{number}", "secret": "long enough", "roles": roles, "disabled": number == 4}
        await api.call("POST", "/admin/users/", user, status=201)

    async def ids(query: str) -> str:
        return " ".join(user["id"] for user in await api.call("GET", f"/admin/users/?{query}"))

    assert await ids("") == "admin u0 u1 u2 u3 u4"
    assert await ids("limit=2") == "admin u0"
    assert await ids("limit=2&after=u0") == "u1 u2"
    assert await ids("roles=developer") == "u0 u2 u4"
    assert await ids("roles=developer&disabled=false") == "u0 u2"
    assert await ids("id=u3") == "u3"
    assert await ids("email=%7B%22%24gt%22%3A%22%22%7D") == ""
    for query in (
        "colour=red",
        "secret=x",
        "limits=1",
        "limit=-1",
        "limit=1001",
        "limit=x",
        "disabled=7",
        "roles=king",
    ):
        message = await api.refused("GET", f"/admin/users/?{query}", status=400, code="argument_invalid")
        assert query.partition("=")[0] in message


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_is_filtered_by_what_all_records_have(site: Site, kind: str) -> None:
    api = site.api()
    made = await api.call("POST", f"/admin/{kind}/", NEW[kind], status=201)
    changed = await api.call("PATCH", path_of(kind), CHANGES[kind])
    for query in (f"id={made['id']}", f"created={made['created']}", f"modified={changed['modified']}", "version=2"):
        found = await api.call("GET", f"/admin/{kind}/?{query}")
        assert found == [changed], query
    assert await api.call("GET", f"/admin/{kind}/?id={made['id']}&version=1") == []


async def test_addresses_and_folders_of_hosts(site: Site) -> None:
    api = site.api()
    addresses = ["10.0.0.1", "fe80::1", "::1", "a.b-c.example.", "build_host", "H1"]
    for number, address in enumerate(addresses):
        host = {"id": f"h{number}", "address": address, "functions_dir": "rel/ative dir/é"}
        assert (await api.call("POST", "/admin/vhosts/", host, status=201))["address"] == address
    assert (await api.call("PATCH", "/admin/vhosts/h0", {"address": None}))["address"] == "h0"


async def test_a_namespace_that_is_gone_does_not_keep_its_users_from_being_changed(site: Site) -> None:
    api = site.api()
    await api.call("POST", "/admin/namespaces/", {"id": "lab"}, status=201)
    await api.call("POST", "/admin/users/", NEW["users"] | {"namespaces": ["lab", "*"]}, status=201)
    await api.call("DELETE", "/admin/namespaces/lab")
    await api.call("PATCH", "/admin/users/alice", {"email": "a@b", "namespaces": ["lab"]})
    params = {"namespaces": ["nowhere"]}
    message = await api.refused("PATCH", "/admin/users/alice", params, status=400, code="argument_invalid")
    assert "no namespace nowhere" in message


async def test_the_runs_of_somebody_who_was_deleted_are_handed_over_on_purpose_only(site: Site) -> None:
    api, bob = site.api(), await site.add_user("bob", namespaces=("text",))
    run, job = await a_run_with_jobs(site, "bob", "text/upper", 3)
    await api.call("DELETE", "/admin/users/bob?force=true")
    assert (await site.store.run_statistics(run)).cancelled == 3, "nobody could fetch what they give"
    new = {"id": "bob", "secret": "secret of bob"}
    message = await api.refused("POST", "/admin/users/", new, status=409, code="in_use")
    assert "choose another id" in message
    assert "--force" in message
    await bob.refused("GET", f"/jobs/{job}", status=401, code="unauthorized")
    await api.call("POST", "/admin/users/?force=true", new, status=201)
    assert (await bob.call("GET", f"/jobs/{job}"))["state"] == "cancelled"
    await api.refused("POST", "/admin/users/", new, status=409, code="already_exists")
    await api.refused("POST", "/admin/namespaces/?force=true", {"id": "x"}, status=400, code="argument_invalid")


async def test_functions_are_reached_by_either_way_of_writing_their_name(site: Site) -> None:
    api = site.api()
    for path in ("/admin/functions/text/upper", "/admin/functions/text%2Fupper"):
        assert (await api.call("GET", path))["id"] == "text/upper"
    await api.refused("GET", "/admin/functions/text", status=404, code="not_found")
    functions = await api.call("GET", "/admin/functions/?namespace=text")
    assert {"text/upper", "text/reverse"} <= {each["id"] for each in functions}
    assert {each["namespace"] for each in functions} == {"text"}


BAD: list[tuple[str, object, int, str]] = [
    ("users", {"id": "alice"}, 400, "argument_missing"),
    ("users", {"secret": "long enough"}, 400, "argument_missing"),
    ("users", {"id": "alice", "secret": "short"}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": 12345678}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "colour": "red"}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "version": 7}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "key": "x"}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "roles": []}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "roles": ["king"]}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "roles": "user"}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "namespaces": ["Text"]}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "email": "nobody"}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "limits": {"unfinished": -1}}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "limits": {"jobs": 1}}, 400, "argument_invalid"),
    ("users", {"id": "alice\x00", "secret": "long enough"}, 400, "name_invalid"),
    ("users", {"id": "alice\n", "secret": "long enough"}, 400, "name_invalid"),
    ("users", {"id": "a/b", "secret": "long enough"}, 400, "name_invalid"),
    ("users", {"id": "x" * 10_000, "secret": "long enough"}, 400, "name_invalid"),
    ("users", {"id": {"$gt": ""}, "secret": "long enough"}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": {"$gt": ""}}, 400, "argument_invalid"),
    ("users", [], 400, "argument_invalid"),
    ("users", "alice", 400, "argument_invalid"),
    ("users", None, 400, "argument_invalid"),
    ("namespaces", {"id": "server"}, 400, "name_invalid"),
    ("namespaces", {"id": "../etc"}, 400, "name_invalid"),
    ("functions", {"id": "text"}, 400, "name_invalid"),
    ("functions", {"id": "server/deploy"}, 400, "name_invalid"),
    ("functions", {"id": "nowhere/func"}, 404, "namespace_not_found"),
    ("functions", {"id": "text/new", "timeout": 0}, 400, "argument_invalid"),
    ("functions", {"id": "text/new", "soft_timeout": 3, "timeout": 2}, 400, "argument_invalid"),
    ("functions", {"id": "text/new", "max_attempts": 0}, 400, "argument_invalid"),
    ("functions", {"id": "text/new", "retry_on": ["not a name"]}, 400, "argument_invalid"),
    ("functions", {"id": "text/new", "memory_limit": 5}, 400, "argument_invalid"),
    ("functions", {"id": "text/new", "route": "server"}, 400, "argument_invalid"),
    ("functions", {"id": "text/new", "mean_duration": 1}, 400, "argument_invalid"),
    ("vhosts", {"id": "host", "port": 0}, 400, "argument_invalid"),
    ("vhosts", {"id": "host", "ssh_user": "-oProxyCommand"}, 400, "argument_invalid"),
    ("vhosts", {"id": "-host"}, 400, "name_invalid"),
    *(
        ("vhosts", {"id": "host", "address": bad}, 400, "argument_invalid")
        for bad in ("-oProxyCommand=x", "a b", "a\n", "a/b", "a@b", "a..b", "1:2", "x" * 254, "é")
    ),
    *(
        ("vhosts", {"id": "host", "functions_dir": bad}, 400, "argument_invalid")
        for bad in ("-rf", "/a\nb", "/a\n", "/\x00", "/a\x7f", "/\x1b[2J")
    ),
    ("users", {"id": "alice", "secret": "long enough", "namespaces": ["text", "nowhere"]}, 400, "argument_invalid"),
    ("users", {"id": "alice", "secret": "long enough", "namespaces": ["server"]}, 400, "argument_invalid"),
    ("users", {"id": "a", "secret": "long enough", "limits": {"requests_per_second": 1e-6}}, 400, "argument_invalid"),
]


@pytest.mark.parametrize(("kind", "params", "status", "code"), BAD, ids=range(len(BAD)))
async def test_what_is_not_right_is_refused_and_changes_nothing(
    site: Site, kind: str, params: object, status: int, code: str
) -> None:
    api = site.api()
    body = msgspec.json.encode({"params": params})
    message = check_refusal(await api.send("POST", f"/admin/{kind}/", body), status, code)
    if isinstance(params, dict) and code == "argument_invalid":
        assert any(name in message for name in params), message
    assert not [entry for entry in await api.call("GET", "/admin/operations/") if entry["outcome"] == "done"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"null", b'{"params": {"email": "a@b"}, "x": 1}', b"\xff"])
async def test_a_change_that_is_no_object_is_refused(site: Site, body: bytes) -> None:
    answer = await site.api().send("PATCH", "/admin/users/admin", body)
    assert answer.code == 400
    assert (await site.api().call("GET", "/admin/users/admin"))["version"] == 1


async def test_strange_ids_are_not_found(site: Site) -> None:
    api = site.api()
    for strange in ("%00", "a%00b", "x" * 10_000, "%7B%22%24gt%22%3A%22%22%7D", "%2e%2e%2f", "a%0Ab"):
        for kind in KINDS:
            for method in ("GET", "PATCH", "DELETE"):
                params = {} if method == "PATCH" else None
                await api.refused(method, f"/admin/{kind}/{strange}", params, status=404, code="not_found")
    await api.refused("GET", "/admin/users/%ff", status=400, code="argument_invalid")


async def test_what_is_in_use_is_deleted_only_by_force(site: Site) -> None:
    api = site.api()
    await site.add_user("bob", namespaces=("text",))
    await a_run_with_jobs(site, "bob", "text/upper", 3)
    message = await api.refused("DELETE", "/admin/namespaces/text", status=409, code="in_use")
    assert "text/upper" in message
    assert "--force" in message
    for path in ("/admin/functions/text/upper", "/admin/users/bob"):
        message = await api.refused("DELETE", path, status=409, code="in_use")
        assert "3 unfinished" in message
        assert "?force=true (--force)" in message
        assert (await api.call("DELETE", f"{path}?force=true"))["id"]
    await api.call("DELETE", "/admin/namespaces/text?force=true")
    assert not await api.call("GET", "/admin/functions/?namespace=text")
    await api.refused("POST", "/jobs/", {"function": "text/reverse"}, status=404, code="function_not_found")


async def test_the_last_administrator_stays(site: Site) -> None:
    api, code = site.api(), "last_administrator"
    await a_run_with_jobs(site, "admin", "text/upper", 2)
    await api.refused("DELETE", "/admin/users/admin?force=true", status=409, code=code)
    assert await site.store.count_unfinished(user="admin") == 2
    await api.refused("PATCH", "/admin/users/admin", {"roles": ["user"]}, status=409, code=code)
    await api.refused("PATCH", "/admin/users/admin", {"disabled": True}, status=409, code=code)
    await api.call("POST", "/admin/users/", NEW["users"] | {"roles": ["administrator"]}, status=201)
    await api.call("PATCH", "/admin/users/admin", {"roles": ["operator"]})
    await api.refused("PATCH", "/admin/users/alice", {"disabled": True}, status=403, code="forbidden")


async def test_a_secret_is_rotated_without_downtime(site: Site) -> None:
    admin = site.api()
    await admin.call("POST", "/admin/users/", NEW["users"], status=201)
    old, new = site.api("alice", "correct horse"), site.api("alice", "battery staple")
    assert (await old.call("GET", "/whoami"))["id"] == "alice"
    rotated = await admin.call("PATCH", "/admin/users/alice", {"secret": "battery staple", "grace": 60})
    assert rotated["secret_expires"] == pytest.approx(time.time() + 60, abs=10)
    for either in (old, new):
        assert (await either.call("GET", "/whoami"))["secret_expires"] == rotated["secret_expires"]
    await new.call("PATCH", "/whoami", {"secret": "staple battery", "grace": 0})
    for gone in (old, new):
        await gone.refused("GET", "/whoami", status=401, code="unauthorized")
    last = site.api("alice", "staple battery")
    assert (await last.call("GET", "/whoami"))["secret_expires"] is None
    await admin.call("PATCH", "/admin/users/alice", {"secret": "once more, please"})
    assert (await last.call("GET", "/whoami"))["secret_expires"] > time.time() + 80_000
    await admin.refused("PATCH", "/admin/users/alice", {"grace": 1}, status=400, code="argument_missing")


async def test_who_is_disabled_demoted_or_deleted_is_so_at_once(site: Site) -> None:
    admin = site.api()
    await admin.call("POST", "/admin/users/", NEW["users"] | {"roles": ["operator"]}, status=201)
    alice = site.api("alice", "correct horse")
    await alice.call("GET", "/admin/users/")
    await admin.call("PATCH", "/admin/users/alice", {"roles": ["user"]})
    await alice.refused("GET", "/admin/users/", status=403, code="forbidden")
    await admin.call("PATCH", "/admin/users/alice", {"disabled": True})
    await alice.refused("GET", "/whoami", status=401, code="unauthorized")
    await admin.call("PATCH", "/admin/users/alice", {"disabled": False})
    await alice.call("GET", "/whoami")
    await admin.call("DELETE", "/admin/users/alice")
    await alice.refused("GET", "/whoami", status=401, code="unauthorized")


async def test_a_function_that_is_disabled_takes_no_jobs(site: Site) -> None:
    api = site.api()
    run = await api.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    await api.call("PATCH", "/admin/functions/text/upper", {"enabled": False})
    for method, path, params in (
        ("POST", "/jobs/", {"function": "text/upper"}),
        ("POST", "/runs/", {"function": "text/upper"}),
    ):
        await api.refused(method, path, params, status=409, code="function_disabled")
    check_refusal(await api.send("PUT", f"/runs/{run['id']}/blocks/0", b"{}"), 409, "function_disabled")
    await api.call("PATCH", "/admin/functions/text/upper", {"enabled": True})
    await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)


async def test_a_user_runs_functions_of_own_namespaces(site: Site) -> None:
    admin, bob = site.api(), await site.add_user("bob")
    await bob.refused("POST", "/jobs/", {"function": "text/upper"}, status=403, code="forbidden")
    await admin.call("PATCH", "/admin/users/bob", {"namespaces": ["text"]})
    await bob.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    run = await bob.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    await bob.refused("POST", "/jobs/", {"function": "math/add"}, status=403, code="forbidden")
    await admin.call("PATCH", "/admin/users/bob", {"namespaces": []})
    check_refusal(await bob.send("PUT", f"/runs/{run['id']}/blocks/0", b"{}"), 403, "forbidden")


async def test_nothing_secret_is_ever_shown(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Not in an answer, an error, the log, or the operation log; in the store only under the server's key."""
    caplog.set_level(logging.DEBUG)
    api, secrets = site.api(), ("hidden-secret", "hidden-key", "hidden-cert")
    shown: list[bytes] = []

    async def send(method: str, path: str, params: object = None) -> None:
        body = None if params is None else msgspec.json.encode({"params": params})
        shown.append((await api.send(method, path, body)).body)

    keys = {"ssh_key": "hidden-key", "ssh_pem_cert": "hidden-cert"}
    for _ in range(2):  # the second time, they are there already
        await send("POST", "/admin/users/", {"id": "alice", "secret": "hidden-secret"})
        await send("POST", "/admin/vhosts/", {"id": "h1", **keys})
    await send("POST", "/admin/users/", {"id": "bob", "secret": "hidden-secret", "roles": 7})
    await send("POST", "/admin/users/", {"id": "no such id", "secret": "hidden-secret"})
    await send("PATCH", "/admin/users/alice", {"secret": "hidden-secret"})
    await send("PATCH", "/admin/vhosts/h1", {**keys, "port": "x"})
    await send("PATCH", "/admin/vhosts/h1", {**keys, "port": 23})
    for path in ("users/", "users/alice", "vhosts/", "vhosts/h1", "operations/?limit=100"):
        await send("GET", f"/admin/{path}")
    everything = b"".join(shown) + caplog.text.encode()
    assert b"***" in everything
    for secret in secrets:
        assert secret.encode() not in everything
    host = msgspec.json.decode(shown[-2])["result"]
    assert host["has_ssh_key"]
    assert host["has_ssh_pem_cert"]
    for file in site.settings.server.key_file.parent.glob("store.db*"):
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in secrets), file
    [stored] = [each for each in [await site.store.get_user("alice")] if each]
    assert KeyBox.open(site.settings.server.key_file).unseal(stored.key, "users/alice")


async def test_operators_see_and_cancel_everybodys_work(site: Site) -> None:
    boss, bob = await site.add_user("boss", roles={"operator"}), await site.add_user("bob", namespaces=("text",))
    run = await bob.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    job = await bob.call("POST", "/jobs/", {"function": "text/upper", "args": ["x"]}, status=201)
    assert {each["user"] for each in await boss.call("GET", "/admin/runs/?user=bob")} == {"bob"}
    assert await boss.call("GET", "/admin/runs/?user=nobody") == []
    assert (await boss.call("GET", f"/admin/runs/{run['id']}"))["user"] == "bob"
    seen = await boss.call("GET", f"/admin/jobs/{job}")
    assert (seen["user"], seen["args"]) == ("bob", ["x"])
    assert (await boss.call("DELETE", f"/admin/jobs/{job}"))["state"] == "cancelled"
    assert (await boss.call("DELETE", f"/admin/runs/{run['id']}"))["state"] == "cancelled"
    assert (await bob.call("GET", f"/runs/{run['id']}"))["state"] == "cancelled"
    done = await boss.call("GET", "/admin/operations/?outcome=done")
    assert [(entry["op_type"], entry["doc_id"], entry["operator"]) for entry in done] == [
        ("runs.cancel", run["id"], "boss"),
        ("jobs.cancel", job, "boss"),
    ]


async def test_a_stolen_name_is_no_use(site: Site) -> None:
    """A deleted and newly made user has another key, whatever the cache still holds."""
    admin = site.api()
    await admin.call("POST", "/admin/users/", NEW["users"], status=201)
    first = site.api("alice", "correct horse")
    await first.call("GET", "/whoami")
    await admin.call("DELETE", "/admin/users/alice")
    await admin.call("POST", "/admin/users/", NEW["users"] | {"secret": "another one"}, status=201)
    await first.refused("GET", "/whoami", status=401, code="unauthorized")
    assert isinstance(await site.store.get_user("alice"), User)
    assert await Api(site.url, Credentials("alice", "another one")).call("GET", "/whoami")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "nan", "inf"])
async def test_a_number_that_is_none_is_refused_by_name(site: Site, number: str) -> None:
    api = site.api()
    run, _ = await a_run_with_jobs(site, "admin", "text/upper")
    for path, name in (
        ("/admin/users/?created", "created"),
        ("/admin/functions/?timeout", "timeout"),
        ("/admin/logs/?since", "since"),
        (f"/runs/{run}/results?max=1&wait", "wait"),
    ):
        message = await api.refused("GET", f"{path}={number}", status=400, code="argument_invalid")
        assert name in message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
async def test_a_body_with_a_number_that_json_has_not_is_refused(site: Site, number: str) -> None:
    api = site.api()
    for method, path, body in (
        ("POST", "/admin/functions/", '{"params": {"id": "text/new", "timeout": %s}}'),
        ("PATCH", "/admin/users/admin", '{"params": {"limits": {"requests_per_second": %s}}}'),
        ("POST", "/jobs/", '{"params": {"function": "text/upper", "not_before": %s}}'),
        ("POST", "/jobs/", '{"params": {"function": "text/upper", "args": [{"a": %s}]}}'),
    ):
        answer = await api.send(method, path, (body % number).encode())
        assert answer.code == 400, (path, body, answer.body)


async def test_ones_own_secret_is_changed_in_the_version_that_was_read(site: Site) -> None:
    ann = await site.add_user("ann")
    seen = (await ann.send("GET", "/whoami")).headers["ETag"]
    body = msgspec.json.encode({"params": {"secret": "another secret"}})
    check_refusal(await ann.send("PATCH", "/whoami", body, If_Match='"99"'), 412, "version_mismatch")
    answer = await ann.send("PATCH", "/whoami", body, If_Match=seen)
    assert (answer.code, answer.headers["ETag"]) == (200, '"2"')
    again = site.api("ann", "another secret")
    check_refusal(await again.send("PATCH", "/whoami", body, If_Match=seen), 412, "version_mismatch")


async def test_what_comes_with_dts_says_when_it_was_made(site: Site) -> None:
    for path in ("/admin/namespaces/text", "/admin/functions/text/upper"):
        record = await site.api().call("GET", path)
        assert record["created"] == record["modified"] > 0


async def test_a_route_of_which_nothing_is_set_can_be_read_paused_and_forgotten(site: Site) -> None:
    api = site.api()
    for name in ("far-east", "%2A"):
        place = f"/admin/routes/{name}"
        assert (await api.call("GET", place))["paused"] is False
        paused = await api.call("PATCH", place, {"paused": True})
        assert (paused["paused"], paused["version"]) == (True, 1)
        assert (await api.call("PATCH", place, {"paused": False}))["version"] == 2
        await api.call("DELETE", place)
        assert (await api.send("DELETE", place)).code == 404
    assert await api.call("GET", "/admin/routes/") == []
    assert (await api.send("GET", "/admin/routes/No%20Name")).code == 400
