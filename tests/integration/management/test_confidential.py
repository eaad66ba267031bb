"""Secrets go to another machine over TLS only, unless somebody insists."""

from __future__ import annotations

import pytest

from dts.errors import InvalidInput, ServerUnavailable
from dts.management.client import AdminClient
from tests.integration.conftest import Site

SECRETS = [
    lambda client: client.users.add("bob", secret="a secret of bob"),
    lambda client: client.users._patch("bob", {"secret": "a secret of bob"}, {"version": 1}),
    lambda client: client.change_secret("another secret"),
    lambda client: client.vhosts.add("host.example", ssh_key="a key"),
    lambda client: client.vhosts.add("host.example", ssh_pem_cert="a certificate"),
]


@pytest.mark.parametrize("send", SECRETS)
async def test_no_secret_goes_over_http_to_another_machine(send) -> None:  # type: ignore[no-untyped-def]
    """The name is one that is never there: nothing but the client's own check can refuse."""
    url = "http://server.invalid:8000"
    async with AdminClient("admin", "secret", url, give_up_after=0.1, notify=lambda _: None) as client:
        with pytest.raises(InvalidInput, match="--insecure"):
            await send(client)
        with pytest.raises(ServerUnavailable):
            await client.users.add("bob", email="bob@example.com")
    for insisting in (
        AdminClient("admin", "secret", url, give_up_after=0.1, notify=lambda _: None, insecure=True),
        AdminClient("admin", "secret", "https://server.invalid", give_up_after=0.1, notify=lambda _: None),
    ):
        async with insisting as client:
            with pytest.raises(ServerUnavailable):
                await send(client)


async def test_secrets_go_to_this_machine(site: Site) -> None:
    secret = site.settings.server.admin_secret_file.read_text().strip()
    async with AdminClient("admin", secret, site.url) as client:
        await client.users.add("bob", secret="a secret of bob")
        assert (await client.users.get("bob"))["id"] == "bob"
