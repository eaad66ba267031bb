"""Takes secrets out of what functions print, log, return and raise."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

MASK = "***"
_MASK = MASK.encode()


class Masker:
    """Replaces secrets in texts, also as JSON writes them, and in streams of bytes wherever they are cut."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.secrets = frozenset(filter(None, secrets))
        forms: set[str] = set()
        for secret in self.secrets:
            forms |= {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
            forms |= {line for line in secret.splitlines() if len(line) >= _LEAST_LINE}
        longest_first = sorted(forms, key=len, reverse=True)
        self._forms = [form.encode() for form in longest_first]
        self._longest = max(map(len, self._forms), default=0)
        self._text = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        self._bytes = re.compile(b"|".join(map(re.escape, self._forms))) if forms else None
        self._rest = b""

    def with_more(self, secrets: Iterable[str]) -> Masker:
        """One that takes these out as well: what was a secret before is not to be seen, either."""
        return Masker(self.secrets.union(secrets))

    def text(self, text: str) -> str:
        """A text without secrets."""
        return self._text.sub(MASK, text) if self._text is not None else text

    def json(self, value: bytes) -> bytes:
        """JSON without secrets; if what is left is none, such as of a number, a text in its place."""
        if self._bytes is None or not self._bytes.search(value):
            return value
        masked = self._bytes.sub(_MASK, value)
        try:
            json.loads(masked)
        except ValueError:
            return json.dumps(MASK).encode()
        return masked

    def stream(self, data: bytes) -> bytes:
        """The next part of a stream without secrets. What may be the beginning of one is kept back until the next.

        So is a whole secret that may turn out to be the beginning of a longer one.
        """
        if self._bytes is None:
            return data
        whole, at, parts = self._rest + data, 0, list[bytes]()
        kept = self._first_begun(whole, at)
        while (found := self._bytes.search(whole, at)) is not None and found.start() < kept:
            parts += whole[at : found.start()], _MASK
            at = found.end()
            if at > kept:
                kept = self._first_begun(whole, at)
        parts.append(whole[at:kept])
        self._rest = whole[kept:]
        return b"".join(parts)

    def end(self) -> bytes:
        """What was kept back."""
        rest, self._rest = self._rest, b""
        return self._bytes.sub(_MASK, rest) if self._bytes is not None else rest

    def _first_begun(self, data: bytes, at: int) -> int:
        """The first place from `at` on where a form begins that the end of the data cuts off; that end for none."""
        tail = data[max(at, len(data) - self._longest) :]
        return len(data) - max(_overlap(tail, form) for form in self._forms)


_LEAST_LINE = 8
"""Characters of a line of a secret from which it is masked by itself."""


def _overlap(data: bytes, form: bytes) -> int:
    """How many bytes at the end of `data` a form begins with."""
    most = min(len(data), len(form) - 1)
    return next((size for size in range(most, 0, -1) if data.endswith(form[:size])), 0)
