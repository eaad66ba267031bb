"""Seals messages: a MAC with the fleet's key, so that access to the broker alone lets nobody give orders.

Servers, daemons and workers share the key, by a file. Whoever publishes a message puts a tag on it; whoever takes it
off a queue checks the tag before anything else. The tag covers the queue, the content encoding, the headers and the
body: a message that was altered, or moved to another queue, is refused. Block, run, function and attempt are in the
headers and the body, so they are covered, too. Headers that begin with `x-` are not covered: brokers and dead letters
add them on the way.

A message that was captured and is published to its own queue again is genuine. It repeats what was ordered before,
which DTS must bear anyway: messages are delivered at least once, and a job ends once.

The MAC is BLAKE2b with a key (RFC 7693), 16 bytes: about a microsecond a message, and one more for each kilobyte.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec

HEADER_SEAL = "x-dts-seal"
"""Header of a message: the id of the key that sealed it, a colon, and the tag."""

_TAG_SIZE = 16  # bytes: a forger would need 2**127 messages for an even chance
_ID_SIZE = 4

NO_SEAL = "it has no seal"
WRONG_TAG = "its seal does not match: it was altered, or was meant for another queue"

_NOT_ENCODABLE = (UnicodeEncodeError, ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError)
"""What encoding headers raises that no process of DTS has written."""


class Seal:
    """Makes and checks tags. The first key seals; what any of them has sealed is genuine.

    Several keys let a fleet change its key while it runs: first every process learns the new key as its second one,
    then as its first, then the old one goes.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        states = [blake2b(key=_stretched(key), digest_size=_TAG_SIZE) for key in keys]
        self._states = dict(zip(map(key_id, keys), states, strict=True))
        self.id = key_id(keys[0])
        """The id of the key that seals. It says nothing about the key."""
        self._first = states[0]
        self._keys = tuple(keys)

    def of_message(self, queue: str, body: bytes, encoding: str, headers: Mapping[str, str | int]) -> str:
        """The seal of a message that is published to a queue."""
        return f"{self.id}:{_tag(self._first, _context(queue, encoding, headers), body)}"

    def fault(self, queue: str, body: bytes, encoding: str, headers: Mapping[str, str | int]) -> str:
        """Why a message on a queue is not genuine; empty if it is."""
        seal = headers.get(HEADER_SEAL)
        if not isinstance(seal, str):
            return NO_SEAL
        try:
            context = _context(queue, encoding, headers)
        except _NOT_ENCODABLE:
            return WRONG_TAG
        return self._fault(seal, context, body)

    def of_event(self, topic: str, payload: str) -> str:
        """A payload of an event with its seal before it."""
        return f"{self.id}:{_tag(self._first, _event_context(topic), payload.encode())} {payload}"

    def open_event(self, topic: str, sealed: str) -> tuple[str, str]:
        """The payload of an event, and why it is not genuine; that is empty if it is."""
        seal, space, payload = sealed.partition(" ")
        if not space:
            return sealed, NO_SEAL
        return payload, self._fault(seal, _event_context(topic), payload.encode(errors="surrogatepass"))

    def derive(self, purpose: str) -> list[str]:
        """A secret for another purpose from each of the keys, the sealing one first."""
        return [blake2b(purpose.encode(), key=_stretched(key), person=b"dts-derive").hexdigest() for key in self._keys]

    def _fault(self, seal: str, context: bytes, body: bytes) -> str:
        key, colon, tag = seal.partition(":")
        if not colon:
            return NO_SEAL
        state = self._states.get(key)
        if state is None:
            return f"it was sealed with another key ({key[: 2 * _ID_SIZE]!r}, ours is {self.id!r})"
        expected = _tag(state, context, body)
        return "" if hmac.compare_digest(expected.encode(), tag.encode(errors="replace")) else WRONG_TAG


def _stretched(key: bytes) -> bytes:
    return blake2b(key, person=b"dts-seal").digest()


def key_id(key: bytes) -> str:
    """A short name for a key, which tells nothing about it."""
    return blake2b(key, person=b"dts-key-id", digest_size=_ID_SIZE).hexdigest()


def _tag(state: blake2b, context: bytes, body: bytes) -> str:
    mac = state.copy()
    mac.update(context)
    mac.update(body)
    return mac.hexdigest()


def _context(queue: str, encoding: str, headers: Mapping[str, str | int]) -> bytes:
    """What is covered beside the body. JSON ends by itself, so that context and body cannot run into each other."""
    covered = {name: value for name, value in headers.items() if not name.startswith("x-")}
    return msgspec.json.encode(("message", queue, encoding, covered), order="deterministic")


def _event_context(topic: str) -> bytes:
    return msgspec.json.encode(("event", topic))
