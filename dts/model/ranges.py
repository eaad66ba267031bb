"""How large the numbers are that DTS accepts, in one table. Each fits everything that it passes on its way:

    JSON, as JavaScript reads it   integers to 2**53 - 1, and no NaN or infinity
    SQLite, BSON, AMQP headers     integers of signed 64 bits
    protobuf uint32                integers to 2**32 - 1
    protobuf uint64, frames        integers to 2**64 - 1
    dates                          to the year 9999

REST fields, query arguments and settings take their bounds from here; what a message says is checked against it, too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low`, or `above` it, to `high`, both included."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, number: float) -> bool:
        return (number > self.low if self.above else number >= self.low) and number <= self.high


SECONDS = Range(0, 1e9, above=True)
"""A length of time: up to 31 years, which added to any time of today is a date."""

TIME = Range(0, 32_503_680_000)
"""A moment, in seconds since the epoch: until the year 3000."""

NUMBER = Range(0, 2**53 - 1)
"""The number of a job in its run, and whatever else is counted."""

MAX_NUMBER = int(NUMBER.high)

BLOCK_DIGITS = 12
"""Digits of the number of a block in its run. Times the most jobs of a block it is within NUMBER."""

ATTEMPTS = Range(1, 100)
"""Attempts at a job, and how many of them failed."""

BYTES = Range(2**20, 2**50)
"""A limit of memory: what a child needs at least, and more than any machine has."""

JOBS = Range(0, 10**12)
"""Jobs that may be unfinished at a time."""

RUNNING = Range(1, 10**9)
"""Jobs that may be at work at a time."""

RATE = Range(0.001, 1e6)
"""Requests a second: one every quarter of an hour at least. Less would be a lock-out that looks like a limit."""

LEVEL = Range(0, 1000)
"""The level of a log record, as in Python's logging module."""

PRIORITY = Range(0, 9)
"""How urgent jobs are: those with 9 are published first."""

WEIGHT = Range(0.001, 1000)
"""How much of the work a namespace, a user or a run gets, beside others that have one of their own."""

PORT = Range(1, 65535)
"""A TCP port that can be connected to."""

CONCURRENCY = Range(1, 100_000)
"""Jobs that a child runs at a time."""

BATCH = Range(1, 256)
"""Jobs that one call of `main_many` gets: no more than a message has."""
