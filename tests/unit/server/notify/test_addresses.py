"""Which addresses webhooks may have, and what may name a recipient."""

from __future__ import annotations

import pytest

from dts.errors import InvalidInput
from dts.server.notify.recipients import check_recipient
from dts.server.notify.webhook import CheckedResolver

OUTSIDE = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
INSIDE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *(
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
    ),
    "2002:7f00:1::",
]


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_of_the_internet_are_called(address: str) -> None:
    assert CheckedResolver().allows(address)


@pytest.mark.parametrize("address", INSIDE)
def test_other_addresses_are_not(address: str) -> None:
    assert not CheckedResolver(allow=("192.0.2.0/24",)).allows(address)


def test_networks_that_are_allowed_are_called_also_from_ipv6() -> None:
    resolver = CheckedResolver(allow=("10.0.0.0/8", "fd00::/8"))
    assert all(map(resolver.allows, ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1")))
    assert not any(map(resolver.allows, ("127.0.0.1", "fe80::1", "::ffff:127.0.0.1")))


@pytest.mark.parametrize(
    "name", ["a@example.com", "https://example.com/hook?x=1", "user:ann", "role:operator", "namespace:crm", "default"]
)
def test_recipients(name: str) -> None:
    assert check_recipient(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "ann",
            "group:x",
            "user:",
            "a@b\r\nBcc: c@d",
            "a b@example.com",
            "ä@example.com",
            "a@example.com,b@example.com",
        ),
        *(
            "ftp://example.com",
            "http://",
            "http://u:p@example.com",
            "https://example.com/a b",
            "http://[::1",
            "http://ä.de/",
        ),
        "https://example.com/" + "x" * 3000,
    ],
)
def test_what_is_no_recipient(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_recipient(name)
