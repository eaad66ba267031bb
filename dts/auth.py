"""Who sent a request: the signature that clients make and the server verifies; docs/signature.md is its specification.

    Authorization: DTS-KECCAK-256 v=2, uid=alice, ts=1700000000, nonce=…, digest=…, sig=…

`sig` is HMAC (RFC 2104) with Keccak-256, in hex, over the head of the request and the digest of its body (SHA-256, for
its speed). Each field is preceded by its length as eight bytes, big-endian, so that no two different requests have the
same bytes. Since the body is signed by its digest, a server can refuse a request before it has read the body. Keccak is
the original one (the `sha3` module's `keccak_256`), whose padding differs from that of `hashlib.sha3_256`.

The key is derived from user id and secret, so the secret itself is with its owner only.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import sha3

from dts.errors import AuthError

SCHEME = "DTS-KECCAK-256"
WINDOW = 300
"""Seconds that a request's timestamp may differ from the server's clock, either way."""

SIGNED_HEADERS = ("If-Match", "Idempotency-Key", "Content-Type", "Content-Encoding")
"""Headers that change what is done, in the order in which they are signed."""

_VERSION = b"2"
_KEY_VERSION = b"1"  # of the derivation of keys, which has not changed since the first version of the signature
_NAMES = ("v", "uid", "ts", "nonce", "digest", "sig")
_FIELD = re.compile(rf"({'|'.join(_NAMES)})=([A-Za-z0-9_.@-]{{1,64}})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEFAULT_PORTS = ("", "80", "443")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's id and secret, as a client has them."""

    user_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(user_id={self.user_id!r})"


@dataclass(frozen=True, slots=True)
class Request:
    """The head of an HTTP request, as far as it is signed.

    `host` is in the form that `signed_host` returns; `path` and `query` are raw, as on the wire, the path without the
    base path that the server's URL has. `headers` may have others than those that are signed.
    """

    method: str
    host: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def to(cls, method: str, url: str, headers: Mapping[str, str] | None = None, *, base_path: str = "") -> Request:
        """The request for a URL, whose path and query are percent-encoded already."""
        parts = urlsplit(url)
        path = (parts.path or "/").removeprefix(base_path)
        return cls(method, signed_host(parts.netloc), path, parts.query, headers or {})


@dataclass(frozen=True, slots=True)
class Claim:
    """What an Authorization header says, not yet verified. `digest` is what the body's SHA-256 has to be, in hex."""

    user_id: str
    timestamp: int
    nonce: str
    digest: str
    signature: str


def signed_host(host: str) -> str:
    """The value of a Host header as it is signed: lower case, no dot at the end of the name, no port 80 or 443."""
    name, port = split_host(host)
    return name if port in _DEFAULT_PORTS else f"{name}:{port}"


def split_host(host: str) -> tuple[str, str]:
    """Name and port of a Host header's value, in lower case; an IPv6 address keeps its brackets."""
    host = host.strip().lower()
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):  # that colon was within the brackets of an IPv6 address
        name, port = host, ""
    return name.removesuffix("."), port


def body_digest(body: bytes) -> str:
    """The digest of a body as it travels: SHA-256 in lower-case hex."""
    return hashlib.sha256(body).hexdigest()


def derive_key(user_id: str, secret: str) -> bytes:
    """The signing key of a user: 32 bytes that tell nothing of the secret."""
    return _hmac(secret.encode(), _framed([b"dts-key", _KEY_VERSION, user_id.encode()]))


def new_secret() -> str:
    """A random secret with 256 bits, as text that is safe in a file, a shell and a URL."""
    return secrets.token_urlsafe(32)


class KeccakAuthenticator:
    """Signs requests for one user, and verifies claims against a key."""

    def __init__(self, credentials: Credentials) -> None:
        self.user_id = credentials.user_id
        self._key = derive_key(credentials.user_id, credentials.secret)

    def sign(self, request: Request, body: bytes = b"", *, now: float | None = None, nonce: str | None = None) -> str:
        """The value of the Authorization header for a request. A header serves once; sign again to repeat it.

        `now` and `nonce` are for tests against known values.
        """
        timestamp = int(time.time() if now is None else now)
        claim = Claim(self.user_id, timestamp, nonce or secrets.token_hex(16), body_digest(body), "")
        claim = replace(claim, signature=_signature(self._key, claim, request))
        return (
            f"{SCHEME} v=2, uid={claim.user_id}, ts={claim.timestamp}, nonce={claim.nonce}, "
            f"digest={claim.digest}, sig={claim.signature}"
        )

    @staticmethod
    def parse(header: str | None, *, now: float | None = None) -> Claim:
        """Read an Authorization header and check its time, before anything that costs more.

        Raises:
            AuthError: there is none, it is malformed, or its timestamp is outside the window.
        """
        scheme, _, rest = (header or "").partition(" ")
        fields = dict(_parse_fields(rest))
        if scheme != SCHEME or len(fields) != len(_NAMES) or fields["v"].encode() != _VERSION:
            raise AuthError
        digits = fields["ts"]
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
            raise AuthError
        if not _DIGEST.fullmatch(fields["digest"]):
            raise AuthError
        timestamp = int(digits)
        if abs((time.time() if now is None else now) - timestamp) > WINDOW:
            raise AuthError
        return Claim(fields["uid"], timestamp, fields["nonce"], fields["digest"], fields["sig"])

    @staticmethod
    def verify(claim: Claim, key: bytes, request: Request) -> bool:
        """Whether the claim was signed with `key` over this head; compared in constant time.

        The body is another matter: its digest must be `claim.digest`.
        """
        return hmac.compare_digest(_signature(key, claim, request).encode(), claim.signature.encode())


def _parse_fields(text: str) -> list[tuple[str, str]]:
    items = text.split(",")
    if len(items) != len(_NAMES):
        raise AuthError
    matches = [_FIELD.fullmatch(item.strip(" \t")) for item in items]
    return [(match[1], match[2]) for match in matches if match is not None]


def _signature(key: bytes, claim: Claim, request: Request) -> str:
    headers = {name.lower(): value for name, value in request.headers.items()}
    fields = [
        _VERSION,
        claim.user_id.encode(),
        request.method.encode(),
        request.host.encode(),
        _on_the_wire(request.path),
        _on_the_wire(request.query),
        str(claim.timestamp).encode(),
        claim.nonce.encode(),
        *(_header(name, headers.get(name)) for name in map(str.lower, SIGNED_HEADERS)),
        claim.digest.encode(),
    ]
    return _hmac(key, _framed(fields)).hex()


def _header(name: str, value: str | None) -> bytes:
    """A header as it is signed, so that one that is empty is another one than one that is not there."""
    return b"" if value is None else _on_the_wire(f"{name}:{value.strip()}")


def _on_the_wire(text: str) -> bytes:
    """The bytes of a part of a head; Tornado decodes what is not ASCII as Latin-1, which gives the same bytes again."""
    return text.encode("latin-1", "replace")


def _framed(fields: list[bytes]) -> bytes:
    return b"".join(len(field).to_bytes(8, "big") + field for field in fields)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, sha3.keccak_256)
