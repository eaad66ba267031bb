"""A delivery in the worker's hands."""

from __future__ import annotations

from dataclasses import dataclass

from dts.broker import Consumer, Delivery
from dts.worker.pool.child_process import Assignment


@dataclass(slots=True, eq=False)
class Work:
    """A delivery, and what is still to be done for it.

    `open` counts what it waits for: assignments to end, results and given-away jobs to be confirmed. `settled` is set
    when it is acked, at its end or when its jobs are under a lease; `closed` when nothing is left to wait for.
    `begun` says that a child has died at it, so that what is left is not the delivery any more; `leaving` that it is
    about to be given back; `received` how many of its jobs count as received.
    """

    delivery: Delivery
    consumer: Consumer
    run: str
    function: str
    number: int | None = None
    open: int = 1
    settled: bool = False
    closed: bool = False
    begun: bool = False
    leaving: bool = False
    received: int = 0

    @property
    def block(self) -> str | int:
        """The id of the block that its jobs belong to."""
        return self.delivery.message.headers.get("block", "")

    def headers_of_part(self, count: int) -> dict[str, str | int]:
        """Headers of a message with `count` of its jobs, whichever they are."""
        kept = {key: value for key, value in self.delivery.message.headers.items() if key != "first"}
        return {**kept, "count": count}

    def headers(self, count: int) -> dict[str, str | int]:
        """Headers of a message with `count` results of it."""
        return {"block": self.block, "run": self.run, "function": self.function, "count": count}


def take(delivery: Delivery, consumer: Consumer) -> Work:
    """The work of a new delivery."""
    headers = delivery.message.headers
    number = headers.get("number", headers.get("first_number"))
    return Work(
        delivery,
        consumer,
        run=str(headers.get("run", "")),
        function=str(headers.get("function", "")),
        number=number if isinstance(number, int) else None,
    )


def work_of(assignment: Assignment) -> Work:
    """The work that an assignment is part of."""
    assert isinstance(assignment.owner, Work)
    return assignment.owner
