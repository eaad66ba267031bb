"""Signatures: what passes, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dts.auth import WINDOW, Credentials, KeccakAuthenticator, Request, body_digest, derive_key, signed_host
from dts.errors import AuthError

NOW = 1_800_000_000.0
ALICE = Credentials("alice", "a secret")
HEADERS = {"If-Match": '"3"', "Idempotency-Key": "k", "Content-Type": "application/json", "Content-Encoding": "deflate"}
REQUEST = Request("PUT", "dts.example", "/runs/1/blocks/0", "a=1", HEADERS)


def signed(request: Request = REQUEST, credentials: Credentials = ALICE, body: bytes = b"body") -> str:
    return KeccakAuthenticator(credentials).sign(request, body, now=NOW)


def verifies(header: str, request: Request = REQUEST, credentials: Credentials = ALICE) -> bool:
    claim = KeccakAuthenticator.parse(header, now=NOW)
    return KeccakAuthenticator.verify(claim, derive_key(credentials.user_id, credentials.secret), request)


def test_a_signed_request_verifies() -> None:
    assert verifies(signed())


def test_the_digest_of_the_body_is_part_of_the_claim_and_signed() -> None:
    header = signed()
    assert KeccakAuthenticator.parse(header, now=NOW).digest == body_digest(b"body")
    assert not verifies(header.replace(body_digest(b"body"), body_digest(b"Body")))


def test_keccak_is_the_original_one_and_not_sha3() -> None:
    import hashlib

    import sha3

    assert sha3.keccak_256(b"").hexdigest() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert sha3.keccak_256(b"").digest() != hashlib.sha3_256(b"").digest()


def other_headers() -> list[dict[str, str]]:
    """The headers that are signed, each once left out and once changed; and two with their values exchanged."""
    without = [{name: value for name, value in HEADERS.items() if name != left} for left in HEADERS]
    changed = [{**HEADERS, name: value + "x"} for name, value in HEADERS.items()]
    empty = [{**HEADERS, name: ""} for name in HEADERS]
    return [*without, *changed, *empty, {**HEADERS, "If-Match": "k", "Idempotency-Key": '"3"'}]


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, method="GET"),
        replace(REQUEST, host="dts.example:8000"),
        replace(REQUEST, host="other.example"),
        replace(REQUEST, path="/runs/1/blocks/1"),
        replace(REQUEST, query="a=2"),
        replace(REQUEST, path="/runs/1/blocks/0a", query="=1"),
        replace(REQUEST, host="dts.example/", path="runs/1/blocks/0"),
        *(replace(REQUEST, headers=headers) for headers in other_headers()),
    ],
)
def test_another_request_does_not_verify(other: Request) -> None:
    assert not verifies(signed(), other)


def test_another_secret_or_user_does_not_verify() -> None:
    assert not verifies(signed(), credentials=Credentials("alice", "another secret"))
    assert not verifies(signed(), credentials=Credentials("bob", "a secret"))


def test_no_two_signatures_share_a_nonce() -> None:
    assert signed() != signed()


def test_the_time_of_a_claim_must_be_near() -> None:
    header = signed()
    KeccakAuthenticator.parse(header, now=NOW + WINDOW)
    for away in (NOW + WINDOW + 1, NOW - WINDOW - 1):
        with pytest.raises(AuthError):
            KeccakAuthenticator.parse(header, now=away)


FIELDS = f"v=2, uid=alice, ts=1800000000, nonce=1, digest={'0' * 64}, sig=2"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic YTpi",
        "DTS-KECCAK-256",
        "DTS-KECCAK-256 uid=alice",
        "dts-keccak-256 " + FIELDS,
        "DTS-KECCAK-256 " + FIELDS.replace("v=2", "v=1"),
        "DTS-KECCAK-256 " + FIELDS.replace("v=2, ", ""),
        "DTS-KECCAK-256 " + FIELDS.replace("ts=1800000000", "ts=x"),
        "DTS-KECCAK-256 " + FIELDS.replace("ts=1800000000", "ts=1800000000.5"),
        "DTS-KECCAK-256 " + FIELDS.replace("ts=1800000000", "ts=１８００００００００"),
        "DTS-KECCAK-256 " + FIELDS.replace("ts=1800000000", "ts=-1"),
        "DTS-KECCAK-256 " + FIELDS + ", sig=3",
        "DTS-KECCAK-256 " + FIELDS.replace("nonce=1", "uid=bob"),
        "DTS-KECCAK-256 " + FIELDS.replace("alice", "al ice"),
        "DTS-KECCAK-256 " + FIELDS.replace("nonce=1", "nonce=" + "n" * 65),
        "DTS-KECCAK-256 " + FIELDS.replace("0" * 64, "0" * 63),
        "DTS-KECCAK-256 " + FIELDS.replace("0" * 64, "A" * 64),
    ],
)
def test_a_malformed_header_is_refused(header: str | None) -> None:
    with pytest.raises(AuthError):
        KeccakAuthenticator.parse(header, now=NOW)


def test_fields_come_in_any_order_with_or_without_spaces() -> None:
    scheme, _, fields = signed().partition(" ")
    assert verifies(f"{scheme} {','.join(reversed(fields.split(', ')))}")


@pytest.mark.parametrize(
    ("host", "form"),
    [
        ("dts.example", "dts.example"),
        ("DTS.Example.:80", "dts.example"),
        ("dts.example:443", "dts.example"),
        ("dts.example:8000", "dts.example:8000"),
        ("[::1]", "[::1]"),
        ("[2001:DB8::1]:8000", "[2001:db8::1]:8000"),
        ("[::1]:443", "[::1]"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_a_host_is_signed_in_one_form(host: str, form: str) -> None:
    assert signed_host(host) == form


def test_a_request_is_made_from_a_url() -> None:
    request = Request.to("GET", "https://DTS.example:443/dts/jobs/a%20b?x=%31", base_path="/dts")
    assert request == Request("GET", "dts.example", "/jobs/a%20b", "x=%31")


def test_a_signature_that_is_not_hex_is_refused() -> None:
    header = signed().rpartition("sig=")[0] + "sig=" + "z" * 64
    assert not verifies(header)


def test_the_secret_does_not_show() -> None:
    assert "a secret" not in repr(ALICE)
    assert b"a secret" not in derive_key("alice", "a secret")
