"""A delivery that the worker holds, and what is still to be done for it."""

from __future__ import annotations

from dataclasses import dataclass

from dts.broker import Consumer, Delivery
from dts.errors import DtsError
from dts.model.ranges import MAX_NUMBER
from dts.wire import codec, sanitize
from dts.wire.archive import is_version
from dts.wire.dts_pb2 import JobBatch
from dts.worker.pool.child_process import Assignment


@dataclass(slots=True, eq=False)
class InFlight:
    """A delivery from its receipt until it is settled.

    `open` counts what it waits for: assignments to end, results and given-away jobs to be confirmed. `settled` is set
    when it is acked: at its end, or when its jobs are under a lease; `closed` when nothing is left to wait for.
    `begun` says that a child has died at it, so that what is left is not the delivery any more; `leaving` that it is
    about to be given back; `received` how many of its jobs count as received. `version` is the hash of the deployed
    version that it asks for, empty for none.
    """

    delivery: Delivery
    consumer: Consumer
    run: str
    function: str
    block: str
    number: int | None
    version: str = ""
    open: int = 1
    settled: bool = False
    closed: bool = False
    begun: bool = False
    leaving: bool = False
    received: int = 0

    @classmethod
    def of(cls, delivery: Delivery, consumer: Consumer) -> InFlight:
        """A delivery that was just received, with what can be used of its headers: on a queue may be anything."""
        headers = delivery.message.headers
        number = headers.get("number", headers.get("first_number"))
        return cls(
            delivery,
            consumer,
            run=sanitize.name(headers.get("run")),
            function=sanitize.name(headers.get("function")),
            block=sanitize.name(headers.get("block")),
            number=number if isinstance(number, int) and 0 <= number <= MAX_NUMBER else None,
            version=str(headers["version"]) if is_version(headers.get("version")) else "",
        )

    def assignment(self, secrets: bytes = b"") -> Assignment:
        """All its jobs, for a child, with the secrets that its function gets."""
        message = self.delivery.message
        return Assignment(
            message.body,
            message.content_encoding,
            self,
            number=self.number,
            function=self.function,
            version=self.version,
            secrets=secrets,
        )

    @property
    def count(self) -> int:
        """How many jobs it has, as far as its headers say."""
        count = self.delivery.message.headers.get("count")
        return count if isinstance(count, int) and 0 <= count <= MAX_NUMBER else 1

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of it was begun, so that it can be given back as it came."""
        return self.open == 1 and not (self.settled or self.begun)

    def is_part(self, body: bytes, content_encoding: str) -> bool:
        """Whether a body that a child has made holds jobs of this delivery's block and function.

        It is going to be published as the worker's own word, and the child runs code that is not the worker's.
        """
        try:
            batch = codec.decode(JobBatch, body, content_encoding)
        except DtsError:
            return False
        return (batch.block, batch.run, batch.function) == (self.block, self.run, self.function)

    def headers_of_part(self, count: int) -> dict[str, str | int]:
        """Headers of a message with `count` of its jobs, whichever they are."""
        kept = {key: value for key, value in self.delivery.message.headers.items() if key != "first"}
        return {**kept, "count": count}

    def headers(self, count: int) -> dict[str, str | int]:
        """Headers of a message with `count` results of it."""
        named: dict[str, str | int] = {"block": self.block, "run": self.run, "function": self.function, "count": count}
        queued = self.delivery.message.headers.get("queued")
        return named if queued is None else {**named, "queued": queued}


def in_flight(assignment: Assignment) -> InFlight:
    """The delivery that an assignment is part of."""
    assert isinstance(assignment.owner, InFlight)
    return assignment.owner
