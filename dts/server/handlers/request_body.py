"""The body of a request while it comes in: bounded, and digested piece by piece."""

from __future__ import annotations

import hashlib
import hmac


class RequestBody:
    """Gathers a body of at most `limit` bytes; what is over that is counted and not kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._discarding = False
        self._chunks: list[bytes] = []
        self._digest = hashlib.sha256()
        self.received = 0

    @property
    def too_large(self) -> bool:
        """Whether more has come than may be kept."""
        return self.received > self._limit

    def add(self, chunk: bytes) -> None:
        """Take the next piece."""
        self.received += len(chunk)
        if self.too_large or self._discarding:
            self._chunks.clear()
            return
        self._digest.update(chunk)
        self._chunks.append(chunk)

    def discard(self) -> None:
        """Keep nothing, neither of what has come nor of what may still come."""
        self._discarding = True
        self._chunks.clear()

    def has_digest(self, expected: str) -> bool:
        """Whether this is the body with that SHA-256, in hex; compared in constant time."""
        return hmac.compare_digest(self._digest.hexdigest(), expected)

    def content(self) -> bytes:
        """All of it."""
        if len(self._chunks) != 1:
            self._chunks[:] = [b"".join(self._chunks)]
        return self._chunks[0]
