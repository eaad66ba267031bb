"""`/admin/secrets/`: written by those who may, read by nobody, and opened by the fleet alone."""

from __future__ import annotations

import msgspec
import pytest

from dts.broker import Delivery
from dts.errors import WireError
from dts.model.secrets import COLLECTION, HEADER
from dts.runtime.fleet_key import read_fleet_key
from dts.wire.confidential import decrypt, encrypt
from dts.wire.queues import jobs_queue
from dts.wire.seal import Seal
from tests.integration.conftest import Site

CANARY = "canary-of-this-test"


async def test_a_message_has_the_secrets_of_its_namespace_as_they_are_now(site: Site) -> None:
    api = site.api()
    seal = read_fleet_key(site.settings.fleet_key_file)
    assert seal is not None

    async def sent() -> dict[str, str]:
        await api.call("POST", "/jobs/", {"function": "text/upper", "args": ["x"]}, status=201)
        async with await site.broker.consume(jobs_queue("default"), prefetch=10) as consumer:
            deliveries: list[Delivery] = await consumer.receive(10)
            await consumer.ack(deliveries)
        [delivery] = deliveries
        assert CANARY.encode() not in delivery.message.body
        text = delivery.message.headers.get(HEADER)
        opened: dict[str, str] = msgspec.json.decode(decrypt(seal, "text", str(text))) if text else {}
        return opened

    assert await sent() == {}
    await api.call("POST", "/admin/secrets/", {"id": "text/ONE", "secret": CANARY}, status=201)
    await api.call("POST", "/admin/secrets/", {"id": "math/TWO", "secret": CANARY}, status=201)
    assert await sent() == {"ONE": CANARY}
    await api.call("PATCH", "/admin/secrets/text%2FONE", {"secret": CANARY + "2"})
    await api.call("POST", "/admin/secrets/", {"id": "text/TWO", "secret": CANARY}, status=201)
    assert await sent() == {"ONE": CANARY + "2", "TWO": CANARY}
    await api.call("DELETE", "/admin/secrets/text%2FONE")
    assert await sent() == {"TWO": CANARY}
    await api.refused("DELETE", "/admin/namespaces/math", status=409, code="in_use")
    await api.call("DELETE", "/admin/namespaces/text?force=true")
    assert await site.store.get_document(COLLECTION, "text") is None
    shown = [(await api.send("GET", f"/admin/{path}")).body for path in ("secrets/", "operations/?limit=100")]
    assert CANARY.encode() not in b"".join(shown)
    for file in site.settings.server.key_file.parent.glob("*.db*"):
        assert file.is_dir() or CANARY.encode() not in file.read_bytes()


async def test_who_may(site: Site) -> None:
    member = await site.add_user("dev", roles={"developer"}, namespaces=("text",))
    await member.call("POST", "/admin/secrets/", {"id": "text/ONE", "secret": CANARY}, status=201)
    await member.refused("POST", "/admin/secrets/", {"id": "math/ONE", "secret": CANARY}, status=403, code="forbidden")
    assert [each["id"] for each in await member.call("GET", "/admin/secrets/")] == ["text/ONE"]
    user = await site.add_user("bob", namespaces=("text",))
    await user.refused("GET", "/admin/secrets/", status=403, code="forbidden")


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"id": "text/a;id", "secret": CANARY}, "name_invalid"),
        ({"id": "text/../x", "secret": CANARY}, "name_invalid"),
        ({"id": "text", "secret": CANARY}, "name_invalid"),
        ({"id": "text/ONE", "secret": "abc"}, "argument_invalid"),
        ({"id": "nowhere/ONE", "secret": CANARY}, "namespace_not_found"),
        ({"id": "text/ONE", "secret": "x" * 32_768}, "too_large"),
    ],
)
async def test_what_is_refused(site: Site, params: dict[str, str], code: str) -> None:
    status = {"namespace_not_found": 404, "too_large": 413}.get(code, 400)
    message = await site.api().refused("POST", "/admin/secrets/", params, status=status, code=code)
    assert CANARY not in message


def test_what_was_encrypted_for_another_place_or_fleet_cannot_be_opened() -> None:
    mine, other = Seal([b"k" * 32, b"old" * 11]), Seal([b"o" * 32])
    text = encrypt(mine, "text", b"x")
    assert decrypt(mine, "text", text) == b"x"
    assert decrypt(mine, "text", encrypt(Seal([b"old" * 11]), "text", b"x")) == b"x"
    for seal, place, changed in (
        (other, "text", text),
        (mine, "math", text),
        (mine, "text", text[:-8]),
        (mine, "text", ""),
    ):
        with pytest.raises(WireError):
            decrypt(seal, place, changed)
