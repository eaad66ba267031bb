"""What an AMQP URL says."""

from __future__ import annotations

import pytest

from dts.broker.amqp.url import Node, parse_amqp_url
from dts.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("amqp://h1", [("h1", 5672)]),
        ("amqps://h1/", [("h1", 5671)]),
        ("amqp://", [("localhost", 5672)]),
        ("amqp://u:p%40@h1:5672,h2:5673,h3/v", [("h1", 5672), ("h2", 5673), ("h3", 5672)]),
        ("amqp://u:p@[::1]:5673,[fe80::1]", [("::1", 5673), ("fe80::1", 5672)]),
        ("amqp://h1,h1:5672,h2", [("h1", 5672), ("h2", 5672)]),
    ],
)
def test_a_url_names_one_or_more_nodes(url: str, nodes: list[tuple[str, int]]) -> None:
    assert parse_amqp_url(url).nodes == tuple(Node(*each) for each in nodes)


def test_user_password_and_vhost_are_decoded_and_the_password_is_not_shown() -> None:
    url = parse_amqp_url("amqp://a%40b:p%2C%3Aq@h1,[::1]:5673/v%2Fw?heartbeat=3&delivery_limit=7")
    assert (url.user, url.password, url.vhost) == ("a@b", "p,:q", "v/w")
    assert (url.heartbeat, url.delivery_limit) == (3, 7)
    assert str(url) == "amqp://a@b@h1:5672,[::1]:5673/v/w"


@pytest.mark.parametrize(
    "url",
    ["amqp://h1:x,h2", "amqp://h1:5672:1", "amqp://h1:99999", "amqp://[::1", "amqp://h1 h2", "amqp://h?depth=1"],
)
def test_what_is_no_list_of_nodes_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_amqp_url(url)
