"""Signatures: what passes, and that nothing else does."""

from __future__ import annotations

import pytest

from dts.auth import WINDOW, Credentials, KeccakAuthenticator, Request, derive_key
from dts.errors import AuthError

NOW = 1_800_000_000.0
ALICE = Credentials("alice", "a secret")
REQUEST = Request("PUT", "/runs/1/blocks/0", "a=1", b"body")


def signed(request: Request = REQUEST, credentials: Credentials = ALICE) -> str:
    return KeccakAuthenticator(credentials).sign(request, now=NOW)


def verifies(header: str, request: Request = REQUEST, credentials: Credentials = ALICE) -> bool:
    claim = KeccakAuthenticator.parse(header, now=NOW)
    return KeccakAuthenticator.verify(claim, derive_key(credentials.user_id, credentials.secret), request)


def test_a_signed_request_verifies() -> None:
    assert verifies(signed())


def test_keccak_is_the_original_one_and_not_sha3() -> None:
    import hashlib

    import sha3

    assert sha3.keccak_256(b"").hexdigest() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert sha3.keccak_256(b"").digest() != hashlib.sha3_256(b"").digest()


@pytest.mark.parametrize(
    "other",
    [
        Request("GET", "/runs/1/blocks/0", "a=1", b"body"),
        Request("PUT", "/runs/1/blocks/1", "a=1", b"body"),
        Request("PUT", "/runs/1/blocks/0", "a=2", b"body"),
        Request("PUT", "/runs/1/blocks/0", "a=1", b"Body"),
        Request("PUT", "/runs/1/blocks/0a", "=1", b"body"),
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


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic YTpi",
        "DTS-KECCAK-256",
        "DTS-KECCAK-256 uid=alice",
        "DTS-KECCAK-256 uid=alice, ts=x, nonce=1, sig=2",
        "DTS-KECCAK-256 uid=alice, ts=1800000000, nonce=1, sig=2, sig=3",
        "DTS-KECCAK-256 uid=alice, uid=bob, ts=1800000000, sig=3",
        "DTS-KECCAK-256 uid=al ice, ts=1800000000, nonce=1, sig=2",
        "DTS-KECCAK-256 uid=alice, ts=１８００００００００, nonce=1, sig=2",
        "DTS-KECCAK-256 uid=alice, ts=-1, nonce=1, sig=2",
        "DTS-KECCAK-256 uid=alice, ts=1800000000, nonce=" + "n" * 65 + ", sig=2",
    ],
)
def test_a_malformed_header_is_refused(header: str | None) -> None:
    with pytest.raises(AuthError):
        KeccakAuthenticator.parse(header, now=NOW)


def test_a_signature_that_is_not_hex_is_refused() -> None:
    header = signed().rpartition("sig=")[0] + "sig=" + "z" * 64
    assert not verifies(header)


def test_the_secret_does_not_show() -> None:
    assert "a secret" not in repr(ALICE)
    assert b"a secret" not in derive_key("alice", "a secret")
