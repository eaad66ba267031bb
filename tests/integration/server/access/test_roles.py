"""Who may do what: every role at every method of every route, with what is one's own and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest
from tornado.web import RequestHandler

from dts.model import AlertRule, Function, Limits, Namespace, Route, Schedule, Silence, VirtualHost
from dts.model.secrets import Secret
from dts.server.access.key_box import KeyBox
from dts.server.access.roles import FIELDS, PUBLIC, ROLES, TABLE, Scope, scope_of
from dts.server.handlers._base import DtsHandler
from dts.server.handlers.admin.function_versions import CONTENT_ZIP
from dts.server.hosts.rollouts import Rollout, start_rollout
from dts.server.routes import ROUTES
from dts.server.versions.library import add_version, new_version
from dts.wire.archive import SourceFile, pack, version_of
from tests.integration.conftest import Api, Site, a_run_with_jobs

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

# What is asked for at each route, so that the answer depends on the role alone: {} stands for what the test fills in.
BODIES: dict[tuple[str, str], object] = {
    ("POST", "/admin/secrets/"): {"id": "{namespace}/NEW", "secret": "long enough"},
    ("PATCH", "/admin/secrets/{function}"): {"description": "x"},
    ("POST", "/admin/ssh/host-key"): {"address": "127.0.0.1", "port": 1},
    ("POST", "/admin/ssh/run"): {"hosts": ["h1"], "argv": ["true"]},
    **{("POST", f"/admin/ssh/{what}"): {"hosts": ["h1"]} for what in ("init", "upgrade", "status", "drain", "remove")},
    ("POST", "/jobs/"): {"function": "{function}"},
    ("POST", "/jobs/collected"): {"ids": []},
    ("POST", "/runs/"): {"function": "{function}"},
    ("PATCH", "/runs/{id}"): {"state": "open"},
    ("POST", "/runs/{id}/collected"): {"receipts": []},
    ("PATCH", "/whoami"): {"secret": "secret of {caller}"},
    ("POST", "/admin/users/"): {"id": "newcomer", "secret": "long enough"},
    ("PATCH", "/admin/users/{id}"): {"email": "a@b"},
    ("POST", "/admin/namespaces/"): {"id": "{namespace}2"},
    ("PATCH", "/admin/namespaces/{id}"): {"description": "x"},
    ("POST", "/admin/functions/"): {"id": "{namespace}/added"},
    ("PATCH", "/admin/functions/{function}"): {"description": "x"},
    ("POST", "/admin/functions/{namespaced}/rollout"): {"version": "{version}", "hosts": ["h1"]},
    ("POST", "/admin/vhosts/"): {"id": "h2"},
    ("PATCH", "/admin/vhosts/{id}"): {"port": 23},
    ("POST", "/admin/alerts/test"): {},
    ("PUT", "/admin/restore/{number}"): {"session": "0123456789", "rows": []},
    ("POST", "/admin/restore"): {"session": "0123456789", "pages": 1},
    ("POST", "/admin/routes/"): {"id": "far"},
    ("PATCH", "/admin/routes/{id}"): {"description": "x"},
    ("POST", "/admin/schedules/"): {"id": "s2", "function": "mine/func", "every": 60},
    ("PATCH", "/admin/schedules/{id}"): {"description": "x"},
    ("POST", "/admin/alerts/rules/"): {"id": "r2", "kind": "disk"},
    ("PATCH", "/admin/alerts/rules/{id}"): {"threshold": 5},
    ("POST", "/admin/alerts/silences/"): {"id": "s2", "ends": 5},
    ("PATCH", "/admin/alerts/silences/{id}"): {"ends": 6},
    ("POST", "/admin/runs/{id}/retry"): {},
    ("POST", "/admin/dead/replay"): {"where": {"function": "none/such"}},
}

SOURCE = {"func.py": SourceFile(b"main = print"), "upper.py": SourceFile(b"main = print")}
VERSION = version_of(SOURCE)


def implemented() -> Iterator[tuple[str, str]]:
    """Every method that some handler has for a route that needs a signature."""
    for route in ROUTES:
        for method in METHODS:
            own = getattr(route.handler, method.lower())
            if route.template not in PUBLIC and own is not getattr(RequestHandler, method.lower()):
                yield method, route.template


def test_every_method_of_every_route_has_a_row_and_is_signed() -> None:
    assert set(implemented()) == set(TABLE), "a route without a row, or a row without a route"
    for route in ROUTES:
        for method in METHODS:
            own = getattr(route.handler, method.lower())
            if (method, route.template) in TABLE:
                assert own.authorized, f"{method} {route.template} is not signed"
            elif own is not getattr(DtsHandler, method.lower()):
                assert route.template in PUBLIC


def test_of_several_roles_the_widest_counts() -> None:
    assert scope_of({"user", "operator"}, "POST", "/jobs/") is Scope.MEMBER
    assert scope_of({"user", "administrator"}, "POST", "/jobs/") is Scope.ALL
    assert scope_of({"nonsense"}, "POST", "/jobs/") is Scope.NONE
    assert scope_of({"administrator"}, "POST", "/no/such/route") is Scope.NONE


@dataclass
class World:
    """Two of everything: the caller's own, and somebody else's."""

    site: Site
    caller: Api
    runs: dict[bool, str]
    jobs: dict[bool, str]

    def path(self, template: str, *, own: bool) -> str:
        """A path of a route, to what is the caller's own or not."""
        what = template.split("/")[-2] if template.endswith("}") else template.split("/")[1]
        ids = {
            "runs": self.runs[own],
            "jobs": self.jobs[own],
            "users": self.caller.credentials.user_id if own else "other",
            "namespaces": "mine" if own else "text",
            "vhosts": "h1",
            "versions": VERSION,
            "schedules": "s1",
            "rules": "r1",
            "admin": "h1",
            "routes": "near",
            "silences": "s1",
        }
        template = template.replace("{namespaced}", "mine/func" if own else "text/upper")
        if template.startswith(("/runs/", "/admin/runs/")):
            what = "runs"
        elif "/versions/" in template:
            what = "versions"
        if template.startswith("/admin/schedules/"):
            what = "schedules"
        path = template.replace("{id}", ids.get(what, "")).replace("{number}", "7").replace("{seq}", "1")
        return path.replace("{function}", "mine/func" if own else "text/upper")

    def body(self, method: str, template: str, *, own: bool) -> bytes | None:
        """A body that fits."""
        if method == "PUT" and (method, template) not in BODIES:
            return b"{}"
        if method == "POST" and template.endswith("/versions/"):
            return pack(SOURCE)
        params = BODIES.get((method, template))
        if params is None:
            return None
        namespace = "mine" if own else "text"
        text = msgspec.json.encode({"params": params}).decode()
        return (
            text.replace("{function}", "mine/func" if own else "text/upper")
            .replace("{namespace}", namespace)
            .replace("{version}", VERSION)
            .replace("{caller}", self.caller.credentials.user_id)
            .encode()
        )


async def a_world(site: Site, role: str) -> World:
    """A caller with one role, in one namespace, beside somebody else who has the same."""
    await site.store.add_record(Namespace("mine", limits=Limits()))
    await site.store.add_record(Function("mine/func"))
    await site.store.add_record(VirtualHost("h1"))
    box = KeyBox.open(site.settings.server.key_file)
    for namespace, name in (("mine", "func"), ("text", "upper")):
        sealed = box.seal(b"a secret", f"secrets/{namespace}/{name}")
        await site.store.add_record(Secret(f"{namespace}/{name}", namespace, sealed))
    for function in ("mine/func", "text/upper"):
        await add_version(site.store, new_version(function, SOURCE, user="other", message=""), SOURCE)
        await start_rollout(site.store, Rollout(function, VERSION, (), "", "other", 0.0))
    await site.store.add_record(Schedule("s1", "admin", "mine/func", every=60.0))
    await site.store.add_record(AlertRule("r1", "disk"))
    await site.store.add_record(Route("near"))
    await site.store.add_record(Silence("s1", ends=1.0))
    caller = await site.add_user("caller", roles={role}, namespaces=("mine",))
    other = await site.add_user("other", roles={"user"}, namespaces=("mine", "text"))
    runs, jobs = {}, {}
    for own, api, function in ((True, caller, "mine/func"), (False, other, "text/upper")):
        runs[own], jobs[own] = await a_run_with_jobs(site, api.credentials.user_id, function)
    return World(site, caller, runs, jobs)


IN_USE = {("DELETE", f"/admin/{kind}") for kind in ("users/{id}", "namespaces/{id}", "functions/{function}")}
IN_USE.add(("POST", "/admin/runs/{id}/retry"))  # no job of it has failed
NOBODY_THERE = ("POST", "/admin/ssh/host-key")
BLOCK = "/runs/{id}/blocks/{number}"
QUERIES = {
    ("DELETE", "/jobs/"): "?function=no/body",
    ("DELETE", "/admin/jobs/"): "?user=nobody",
    ("GET", "/admin/statistics/"): "?function=text/upper",
    ("GET", "/webhooks/secret"): "?url=https://example.com/",
    ("GET", "/admin/alerts/secret"): "?url=https://example.com/",
}


def expected(scope: Scope, method: str, template: str, *, own: bool) -> set[int]:
    """The statuses that the table allows."""
    if scope is Scope.NONE:
        return {403}
    if template == "/admin/restore" or (template == BLOCK and not own):
        # Into a store that has an operation log of its own; and whose run it is counts before what its function is.
        return {400} if template == "/admin/restore" else {404}
    if (method, template) == NOBODY_THERE:
        return {424}
    if own or scope is Scope.ALL:
        return {200, 409} if (method, template) in IN_USE else {200, 201, 202}
    if scope is Scope.MEMBER:
        return {200} if method == "GET" and template.endswith("/") and "{" not in template else {403}
    return {404} if "{" in template else {200}


@pytest.mark.parametrize("own", [True, False], ids=["own", "other"])
@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_do_what_the_table_says_and_nothing_else(site: Site, role: str, own: bool) -> None:
    world = await a_world(site, role)
    for (method, template), row in sorted(TABLE.items(), key=lambda item: item[0][0] == "DELETE"):
        scope = row[ROLES.index(role)]
        path, body = world.path(template, own=own), world.body(method, template, own=own)
        headers = {"Content_Type": CONTENT_ZIP} if template.endswith("/versions/") else {}
        answer = await world.caller.send(method, path + QUERIES.get((method, template), ""), body, **headers)
        allowed = expected(scope, method, template, own=own)
        assert answer.code in allowed, (method, path, role, allowed, answer.code, answer.body)


VALUES: dict[tuple[str, str], object] = {
    ("functions", "limits"): {"running": 1},
    ("functions", "memory_limit"): 2**30,
    ("functions", "route"): "far",
    ("functions", "priority"): 7,
}


@pytest.mark.parametrize("role", ROLES)
async def test_a_field_is_written_by_those_whom_the_table_of_fields_names(site: Site, role: str) -> None:
    """At its making, in a change, and with the whole record; the row of the record counts before that of the field."""
    world = await a_world(site, role)
    assert set(VALUES) == set(FIELDS)
    for (kind, field), row in FIELDS.items():
        new, path = f"mine/with_{field}", f"/admin/{kind}/mine/func"
        allowed = row[ROLES.index(role)] is not Scope.NONE
        for method, at, params in (
            ("POST", f"/admin/{kind}/", {"id": new, field: VALUES[kind, field]}),
            ("PATCH", path, {field: VALUES[kind, field]}),
            ("PATCH", path, {field: None}),
        ):
            answer = await world.caller.send(method, at, msgspec.json.encode({"params": params}))
            assert answer.code in ((200, 201) if allowed else (403,)), (method, field, role, answer.body)
            if role == "developer":
                assert f"{field} of functions: it needs the role administrator" in answer.body.decode()


async def test_what_only_administrators_may_set_goes_only_with_them(site: Site) -> None:
    admin, dev = site.api(), await site.add_user("dev", roles={"developer"}, namespaces=("text",))
    await admin.call("PATCH", "/admin/functions/text/upper", {"limits": {"running": 1}})
    assert await dev.call("PATCH", "/admin/functions/text/upper", {"timeout": 5})
    message = await dev.refused("DELETE", "/admin/functions/text/upper", status=403, code="forbidden")
    assert "may not take away limits" in message
    assert await dev.call("DELETE", "/admin/functions/text/reverse")
    assert await dev.call("POST", "/admin/functions/", {"id": "text/reverse", "route": "default"}, status=201)


async def test_lists_hold_only_what_the_caller_may_see(site: Site) -> None:
    world = await a_world(site, "developer")
    functions = await world.caller.call("GET", "/admin/functions/")
    assert [function["id"] for function in functions] == ["mine/func"]
    assert [each["id"] for each in await world.caller.call("GET", "/admin/namespaces/")] == ["mine"]
    assert await world.caller.call("GET", "/admin/functions/?namespace=text") == []
    nobody = await site.add_user("nobody")
    assert await nobody.call("GET", "/admin/functions/") == []
    everywhere = await site.add_user("everywhere", namespaces=("*",))
    assert len(await everywhere.call("GET", "/admin/functions/")) > 5


async def test_a_refusal_says_what_is_missing(site: Site) -> None:
    nobody = await site.add_user("nobody")
    message = await nobody.refused("POST", "/jobs/", {"function": "text/upper"}, status=403, code="forbidden")
    assert "nobody does not belong to the namespace text" in message
    message = await nobody.refused("GET", "/admin/users/", status=403, code="forbidden")
    assert "administrator or operator" in message
