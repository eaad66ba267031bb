"""Blocks as the client makes them: how lines are cut into blocks, and what is remembered of one that was sent."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from dts.client.components import Batch
from dts.client.pace import MOST_TARGET
from dts.wire import dts_pb2

FIRST_BLOCK = 64
"""Jobs in the first block; each further one may have twice as many, up to the server's block size.

So the server learns early how fast the function is, and a small file is spread over the workers.
"""

_JOB_OVERHEAD = 24  # bytes of a job in a JobBatch at most, beside its arguments


@dataclass(slots=True)
class SentBlock:
    """A block on its way: enough to tell which line a result is for, and whether it has come before.

    `number` is the block's in its run, None for lines that became no jobs; `first_job` is the number in the run of
    its first job. The job with index i is for line `first_line + i`, unless `lines` says otherwise. `received` is the
    bitmap of jobs whose results have come. `args` and `kwargs` are kept only when rows are to show them.
    """

    number: int | None
    first_job: int
    count: int
    first_line: int
    lines: array[int] | None = None
    args: list[bytes] | None = None
    kwargs: list[bytes] | None = None
    kept: int = 0
    received: int = 0

    def receive(self, jobs: int) -> int:
        """Note that results of the bitmap `jobs` have come; returns those that had not come before."""
        fresh = jobs & ~self.received & ((1 << self.count) - 1)
        self.received |= fresh
        return fresh

    @property
    def complete(self) -> bool:
        """Whether every result has come."""
        return self.received.bit_count() == self.count


@dataclass(frozen=True, slots=True)
class CutBlock:
    """Lines that go into one block: the jobs' arguments and the numbers of the lines, which count from 1."""

    args: list[bytes]
    kwargs: list[bytes] | None
    lines: list[int]
    size: int

    def to_message(self) -> dts_pb2.JobBatch:
        """The block as it is sent."""
        batch = dts_pb2.JobBatch()
        add = batch.jobs.add
        for index, args in enumerate(self.args):
            job = add()  # setting fields takes three quarters of the time of giving them to `add`
            job.index = index
            job.args = args
        for index, kwargs in enumerate(self.kwargs or ()):
            batch.jobs[index].kwargs = kwargs
        return batch

    def to_sent(self, number: int, block_size: int, *, keep: bool) -> SentBlock:
        """What is remembered of it under its number in the run; its arguments only with `keep`."""
        first, last = self.lines[0], self.lines[-1]
        gaps = last - first + 1 != len(self.lines)
        return SentBlock(
            number,
            number * block_size,
            len(self.lines),
            first,
            lines=array("Q", self.lines) if gaps else None,
            args=self.args if keep else None,
            kwargs=self.kwargs if keep else None,
            kept=self.size if keep else 0,
        )


class BlockCutter:
    """Cuts lines into blocks of growing size. `max_body` is the most bytes that a block may have in all.

    `most` is how many jobs the next block may have, up to `block_size`, and `target` how many bytes of arguments,
    unless a single line has more. Both may change at any time.
    """

    def __init__(self, block_size: int, max_body: int) -> None:
        self.lines_seen = 0
        self.most = block_size
        self._block_size = block_size
        self._max_job = max_body - 2 * _JOB_OVERHEAD
        self.target = MOST_TARGET
        self._next_count = min(FIRST_BLOCK, block_size)
        self._args: list[bytes] = []
        self._kwargs: list[bytes] | None = None
        self._lines: list[int] = []
        self._bad: list[tuple[int, str]] = []

    @property
    def pending(self) -> bool:
        """Whether lines wait for a block to fill."""
        return bool(self._lines)

    def add(self, batch: Batch) -> None:
        """Take in the next lines."""
        count = len(batch.args)
        first = self.lines_seen + 1
        self.lines_seen += count
        if batch.kwargs is not None and self._kwargs is None:
            self._kwargs = [b""] * len(self._args)
        if not batch.bad:
            self._args += batch.args
            self._lines.extend(range(first, first + count))
            if self._kwargs is not None:
                self._kwargs += batch.kwargs or [b""] * count
            return
        good = [position for position in range(count) if position not in batch.bad]
        self._args += [batch.args[position] for position in good]
        self._lines += [first + position for position in good]
        if self._kwargs is not None:
            self._kwargs += [batch.kwargs[position] if batch.kwargs else b"" for position in good]
        self._bad += [(first + position, reason) for position, reason in batch.bad.items()]

    def cut(self, *, everything: bool = False) -> Iterator[CutBlock]:
        """The blocks that are full; with `everything`, a last one that is not, too."""
        while len(self._lines) >= (count := min(self._next_count, self.most)) or (everything and self._lines):
            if (block := self._take(count)) is not None:
                self._next_count = min(self._next_count * 2, self._block_size)
                yield block

    def take_bad(self) -> list[tuple[int, str]]:
        """The lines that become no jobs, with the reason, since this was last asked for."""
        bad, self._bad = self._bad, []
        return bad

    def _take(self, count: int) -> CutBlock | None:
        """The next block of at most `count` jobs; None when what came first was too large to be sent at all."""
        args = self._args[:count]
        kwargs = None if self._kwargs is None else self._kwargs[:count]
        size = sum(map(len, args)) + (sum(map(len, kwargs)) if kwargs else 0) + _JOB_OVERHEAD * len(args)
        target = min(self.target, self._max_job)
        if size > target:
            sizes = self._sizes(args, kwargs)
            if sizes[0] > self._max_job:
                self._bad.append((self._lines[0], f"the line's arguments are over the limit of {self._max_job} bytes"))
                self._drop(1)
                return None
            count = max(1, bisect_right(list(accumulate(sizes)), target))
            size = sum(sizes[:count])
        lines = self._lines[:count]
        self._drop(count)
        return CutBlock(args[:count], kwargs[:count] if kwargs and any(kwargs[:count]) else None, lines, size)

    def _drop(self, count: int) -> None:
        del self._args[:count], self._lines[:count]
        if self._kwargs is not None:
            del self._kwargs[:count]

    @staticmethod
    def _sizes(args: Sequence[bytes], kwargs: Sequence[bytes] | None) -> list[int]:
        if kwargs is None:
            return [len(each) + _JOB_OVERHEAD for each in args]
        return [len(a) + len(k) + _JOB_OVERHEAD for a, k in zip(args, kwargs, strict=True)]
