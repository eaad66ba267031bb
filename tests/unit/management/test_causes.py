"""What doctor advises, by what a back end or its driver says."""

from __future__ import annotations

import pytest

from dts.management.doctor.causes import broker_advice, store_advice


@pytest.mark.parametrize(
    ("detail", "advice"),
    [
        ("MongoDB does not answer: db1:27017: [Errno 111] Connection refused", "start the store; [store] url, or DTS_"),
        ("MongoDB does not answer: replica set rs0 has no primary now (db1:27017 is RSSecondary)", "rs.status()"),
        (
            "none of the hosts in its URL is a member of replica set rs9: is replicaSet right?",
            "?replicaSet= in [store] url",
        ),
        ("MongoDB refuses the user or password in the store's URL: Authentication failed.", "authSource"),
        ("MongoDB does not let the user of the store's URL do this: not authorized", "readWrite and dbAdmin"),
        ("the disk is full: /var/lib/dts/store.db", "make room"),
        ("db1:27017: [SSL: CERTIFICATE_VERIFY_FAILED] self signed certificate", "tlsCAFile="),
        ("db9:27017: [Errno -2] Name or service not known", "the name is unknown here"),
        ("the server has another key file than the one that the store was used with", "[server] key_file"),
    ],
)
def test_a_store(detail: str, advice: str) -> None:
    assert advice in store_advice(detail)


@pytest.mark.parametrize(
    ("detail", "advice"),
    [
        (
            "amqp://guest@mq:5672/ does not answer: connection refused: nobody listens there",
            "start the broker; [broker]",
        ),
        ("it closed the connection: ACCESS_REFUSED - Login was refused using PLAIN. (403)", "change_password"),
        ("it closed the connection: NOT_ALLOWED - vhost nowhere not found (530)", "rabbitmqctl add_vhost"),
        ("NOT_ALLOWED - access to vhost 'x' refused for user 'dts' (530)", "set_permissions -p VHOST USER '^dts"),
        ("ACCESS_REFUSED - write access to queue 'dts.results' refused", "docs/security.md"),
        ("it blocks publishers: low on memory", "has an alarm"),
        ("it blocks publishers: low on disk", "make room on the broker's disk"),
        ("certificate verify failed: unable to get local issuer certificate", "cacertfile="),
        ("there is no host of that name: Name or service not known", "the name is unknown here"),
    ],
)
def test_a_broker(detail: str, advice: str) -> None:
    assert advice in broker_advice(detail)
