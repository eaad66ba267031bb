"""Who sent a request: the signature that clients make and the server verifies.

    Authorization: DTS-KECCAK-256 uid=alice, ts=1700000000, nonce=…, sig=…

`sig` is HMAC (RFC 2104) with Keccak-256, in hex, over eight fields: version, uid, method, raw path, raw query,
timestamp, nonce, Keccak-256 of the body. Each field is preceded by its length as eight bytes, big-endian, so that no
two different requests have the same bytes. Keccak is the original one (the `sha3` module's `keccak_256`), whose
padding differs from that of `hashlib.sha3_256`.

The key is derived from user id and secret, so the secret itself is with its owner only.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from dataclasses import dataclass

import sha3

from dts.errors import AuthError

SCHEME = "DTS-KECCAK-256"
WINDOW = 300
"""Seconds that a request's timestamp may differ from the server's clock, either way."""

_VERSION = b"1"
_FIELD = re.compile(r"(uid|ts|nonce|sig)=([A-Za-z0-9_.@-]{1,64})")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's id and secret, as a client has them."""

    user_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(user_id={self.user_id!r})"


@dataclass(frozen=True, slots=True)
class Request:
    """The parts of an HTTP request that are signed. `path` and `query` are raw, as on the wire."""

    method: str
    path: str
    query: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What an Authorization header says, not yet verified."""

    user_id: str
    timestamp: int
    nonce: str
    signature: str


def derive_key(user_id: str, secret: str) -> bytes:
    """The signing key of a user: 32 bytes that tell nothing of the secret."""
    return _hmac(secret.encode(), _framed([b"dts-key", _VERSION, user_id.encode()]))


def new_secret() -> str:
    """A random secret with 256 bits, as text that is safe in a file, a shell and a URL."""
    return secrets.token_urlsafe(32)


class KeccakAuthenticator:
    """Signs requests for one user, and verifies claims against a key."""

    def __init__(self, credentials: Credentials) -> None:
        self.user_id = credentials.user_id
        self._key = derive_key(credentials.user_id, credentials.secret)

    def sign(self, request: Request, *, now: float | None = None) -> str:
        """The value of the Authorization header for a request. A header serves once; sign again to repeat it."""
        timestamp = int(time.time() if now is None else now)
        nonce = secrets.token_hex(16)
        signature = _signature(self._key, self.user_id, request, timestamp, nonce)
        return f"{SCHEME} uid={self.user_id}, ts={timestamp}, nonce={nonce}, sig={signature}"

    @staticmethod
    def parse(header: str | None, *, now: float | None = None) -> Claim:
        """Read an Authorization header and check its time, before anything that costs more.

        Raises:
            AuthError: there is none, it is malformed, or its timestamp is outside the window.
        """
        scheme, _, rest = (header or "").partition(" ")
        fields = dict(_parse_fields(rest))
        if scheme != SCHEME or fields.keys() != {"uid", "ts", "nonce", "sig"}:
            raise AuthError
        digits = fields["ts"]
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
            raise AuthError
        timestamp = int(digits)
        if abs((time.time() if now is None else now) - timestamp) > WINDOW:
            raise AuthError
        return Claim(fields["uid"], timestamp, fields["nonce"], fields["sig"])

    @staticmethod
    def verify(claim: Claim, key: bytes, request: Request) -> bool:
        """Whether the claim was signed with `key` over this request; compared in constant time."""
        expected = _signature(key, claim.user_id, request, claim.timestamp, claim.nonce)
        return hmac.compare_digest(expected.encode(), claim.signature.encode())


def _parse_fields(text: str) -> list[tuple[str, str]]:
    fields = []
    for item in text.split(","):
        match = _FIELD.fullmatch(item.strip())
        if match is None:
            raise AuthError
        fields.append((match[1], match[2]))
    if len(fields) != 4:
        raise AuthError
    return fields


def _signature(key: bytes, user_id: str, request: Request, timestamp: int, nonce: str) -> str:
    return _hmac(
        key,
        _framed(
            [
                _VERSION,
                user_id.encode(),
                request.method.encode(),
                request.path.encode(),
                request.query.encode(),
                str(timestamp).encode(),
                nonce.encode(),
                _keccak(request.body),
            ]
        ),
    ).hex()


def _framed(fields: list[bytes]) -> bytes:
    return b"".join(len(field).to_bytes(8, "big") + field for field in fields)


def _keccak(data: bytes) -> bytes:
    return bytes(sha3.keccak_256(data).digest())


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, sha3.keccak_256)
