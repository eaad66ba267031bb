"""Secrets in their grace time: good for jobs, and for nothing that would outlive them."""

from __future__ import annotations

import msgspec
import pytest

from dts.auth import Credentials
from tests.integration.conftest import Api, Site, check_refusal

JOB = {"function": "text/upper", "args": ["x"]}


async def replaced_secret(site: Site) -> tuple[Api, Api]:
    """An administrator with a secret that was replaced a moment ago, and with the new one."""
    old = await site.add_user("ann", roles=("administrator",))
    await old.call("GET", "/whoami")
    await old.call("PATCH", "/whoami", {"secret": "the second secret"})
    return old, Api(site.url, Credentials("ann", "the second secret"))


async def test_a_replaced_secret_signs_jobs_in_its_grace_time(site: Site) -> None:
    old, _ = await replaced_secret(site)
    job = await old.call("POST", "/jobs/", JOB, status=201)
    run = await old.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    await old.call("PATCH", f"/runs/{run['id']}", {"state": "closed"})
    await old.call("DELETE", f"/jobs/{job}")
    assert (await old.call("GET", "/whoami"))["id"] == "ann"


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("PATCH", "/whoami", {"secret": "the third secret"}),
        ("PATCH", "/admin/users/ann", {"secret": "the third secret"}),
        ("PATCH", "/admin/users/admin", {"disabled": True}),
        ("POST", "/admin/users/", {"id": "eve", "secret": "a secret of eve", "roles": ["administrator"]}),
        ("DELETE", "/admin/users/admin", None),
        ("PATCH", "/admin/functions/text%2Fupper", {"enabled": False}),
        ("POST", "/admin/vhosts/", {"id": "host.example"}),
        ("DELETE", "/admin/jobs/?user=admin", None),
    ],
)
async def test_a_replaced_secret_changes_no_account(site: Site, method: str, path: str, params: object) -> None:
    old, new = await replaced_secret(site)
    body = None if params is None else msgspec.json.encode({"params": params})
    check_refusal(await old.send(method, path, body), 403, "forbidden")
    assert (await new.send("GET", "/whoami")).code == 200
    assert (await site.api().send("GET", "/whoami")).code == 200
    assert (await new.send(method, path, body)).code in {200, 201}
