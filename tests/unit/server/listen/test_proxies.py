"""The address on record behind reverse proxies: what trusted ones say, and nothing that a client made up."""

from __future__ import annotations

import pytest

from dts.config import load_settings
from dts.errors import ConfigError
from dts.server.listen.proxies import Proxies

PROXIES = Proxies(["10.0.0.1", "192.168.0.0/16", "fd00::/8"])


@pytest.mark.parametrize(
    ("address", "forwarded", "client"),
    [
        ("203.0.113.9", ["1.2.3.4"], "203.0.113.9"),  # not a proxy: whatever it says
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.9"], "203.0.113.9"),  # the client wrote the first one itself
        ("10.0.0.1", ["1.2.3.4, 203.0.113.9, 192.168.7.7"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "192.168.7.7"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["rubbish"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4, rubbish\n"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:5555"], "203.0.113.9"),
        ("fd00::1", ["[2001:db8::1]:5555"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["192.168.1.1"], "192.168.1.1"),
    ],
)
def test_the_client_behind_proxies(address: str, forwarded: list[str], client: str) -> None:
    assert PROXIES.client(address, forwarded) == client


def test_what_is_no_network_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'10\.0\.0\.300' is neither"):
        load_settings(None, environment={"DTS_SERVER_TRUSTED_PROXIES": "10.0.0.1 10.0.0.300"})
