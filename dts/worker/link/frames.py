"""The frames that the worker and its children send each other on a stream socket.

A frame is a header of fixed size and a body of as many bytes as the header says. A child sends READY once; then the
worker sends RUN or RUN_ALONE, maybe several before the first one has ended. For each of them, whose ticket the answers
carry, the child sends

- BEGUN once if its function is async and others may run concurrently with it,
- any number of RESULTS, RUNNING, GIVEN and CLAIM; the worker answers a CLAIM with GO, and the first GO is waited for,
- then one DONE, which may carry the last results; or one DEAD and nothing else, when the body is not a batch of jobs.

SECRETS goes before a RUN whose namespace has other secrets than the child was given last.

LOG and BYE belong to no RUN. With BYE the child ends: what it has begun is done, and the rest it will not begin.

A function can write to any descriptor of its process, the socket too. So every header begins with a mark, and what is
not a frame is noticed at its first byte: the reader does not wait for gigabytes that garbage seems to announce.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

from dts.errors import WireError
from dts.wire import codec

_MARK = 0xD75A
_HEADER = struct.Struct("!HBBHIQQ")
HEADER_SIZE = _HEADER.size
MAX_BODY = 2**30
"""Bytes of a frame's body."""

_ENCODINGS = (codec.IDENTITY, codec.DEFLATE)
_ENCODING_CODES = {name: code for code, name in enumerate(_ENCODINGS)}


class Kind(IntEnum):
    """What a frame means."""

    READY = 0
    """Child: it has started and waits for work."""
    RUN = 1
    """Worker: run the jobs of this encoded JobBatch."""
    RESULTS = 2
    """Child: an encoded ResultBatch with jobs that ended."""
    RUNNING = 3
    """Child: an encoded ResultBatch that names jobs still at work."""
    DONE = 4
    """Child: all jobs ended; the body is the last encoded ResultBatch, empty when everything was sent before."""
    DEAD = 5
    """Child: the body of that RUN is not a batch of jobs; the body says why."""
    GIVEN = 6
    """Child: an encoded JobBatch with jobs of that RUN which it has not begun, for another child or worker to run."""
    CLAIM = 7
    """Child: an encoded ResultBatch with the leases under which it wants to run jobs, or goes on to run them."""
    GO = 8
    """Worker: a claim of that RUN is on record; after the first one its jobs may begin."""
    LOG = 9
    """Child: an encoded LogRecord."""
    BYE = 10
    """Child: it begins nothing any more and ends; the body says why."""
    RUN_ALONE = 11
    """Worker: a RUN that must not run concurrently with another one."""
    BEGUN = 12
    """Child: it has begun that RUN of an async function, and could run others concurrently; `jobs` is how many it has,
    and the body is the place of the first one on the board, in decimal."""

    SECRETS = 13
    """Worker: the secrets for the RUNs that follow, as a JSON object; an empty body for none."""


_LAST_KIND = max(Kind)


class Frame(NamedTuple):
    """One frame.

    `ticket` is that of the RUN it belongs to, `jobs` is how many are in the body, `failed` how many of them failed, for
    good or not. Of a RUN, `jobs` is one more than the number in its run that job 0 of the block has, or 0 if that is
    not known, and `failed` is the `scope_mark` of what the worker chose the child for.
    """

    kind: int
    ticket: int
    body: bytes = b""
    content_encoding: str = codec.IDENTITY
    jobs: int = 0
    failed: int = 0


def scope_mark(scope: str) -> int:
    """16 bits by which a child notices that header and body of a message name different namespaces or versions."""
    return zlib.crc32(scope.encode(errors="replace")) & 0xFFFF


def knows_encoding(content_encoding: str) -> bool:
    """Whether a body of that encoding can be put in a frame."""
    return content_encoding in _ENCODING_CODES


def pack_header(frame: Frame) -> bytes:
    """The header that goes before the frame's body. Raises WireError for a body that is too large to be one."""
    if len(frame.body) > MAX_BODY:
        raise WireError(f"a message of {len(frame.body)} bytes cannot be handed to a child: the limit is {MAX_BODY}")
    encoding = _ENCODING_CODES[frame.content_encoding]
    return _HEADER.pack(_MARK, frame.kind, encoding, frame.failed, len(frame.body), frame.jobs, frame.ticket)


class FrameReader:
    """Cuts the bytes of a stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.broken = False
        """Whether there was something between the frames. What came after that is lost."""

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes of the stream; returns the frames that they complete, up to anything that is not a frame."""
        if self.broken:
            return []
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= HEADER_SIZE:
            mark, kind, encoding, failed, size, jobs, ticket = _HEADER.unpack_from(buffer, start)
            if mark != _MARK or kind > _LAST_KIND or encoding >= len(_ENCODINGS) or size > MAX_BODY:
                self.broken = True
                break
            end = start + HEADER_SIZE + size
            if len(buffer) < end:
                break
            body = bytes(memoryview(buffer)[start + HEADER_SIZE : end])
            frames.append(Frame(kind, ticket, body, _ENCODINGS[encoding], jobs, failed))
            start = end
        if start:
            del buffer[:start]
        return frames
