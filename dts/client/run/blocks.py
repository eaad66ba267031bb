"""Blocks as the client makes them: how lines are cut into blocks, and what is remembered of one that was sent."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import msgspec

from dts.client.components import Batch
from dts.client.run.ledger import hash_lines, line_hashes
from dts.client.run.ledger_state import KnownBlock
from dts.client.run.pace import MOST_TARGET
from dts.errors import InputChanged
from dts.model import bitmap
from dts.wire import dts_pb2

FIRST_BLOCK = 64
"""Jobs in the first block; each further one may have twice as many, up to the server's block size.

So the server learns early how fast the function is, and a small file is spread over the workers.
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
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
    """Lines that go into one block: the jobs' arguments and the numbers of the lines, which count from 1.

    `known` is the block that they were in before the run was resumed, if they were in one.
    """

    args: list[bytes]
    kwargs: list[bytes] | None
    lines: list[int]
    size: int
    known: KnownBlock | None = None

    def halves(self) -> tuple[CutBlock, CutBlock]:
        """Two blocks of its lines."""
        middle = len(self.lines) // 2
        first, second = (
            CutBlock(self.args[part], self.kwargs and self.kwargs[part], self.lines[part], self.size // 2)
            for part in (slice(middle), slice(middle, None))
        )
        return first, second

    def hashes(self) -> bytes:
        """A hash of each line."""
        return hash_lines(self.args, self.kwargs)

    def to_message(self, without: str = "") -> dts_pb2.JobBatch:
        """The block as it is sent, without the keyword argument of that name."""
        batch = dts_pb2.JobBatch()
        add = batch.jobs.add
        for index, args in enumerate(self.args):
            job = add()  # setting fields takes three quarters of the time of giving them to `add`
            job.index = index
            job.args = args
        for index, kwargs in enumerate(self.kwargs or ()):
            batch.jobs[index].kwargs = _drop(without, kwargs) if without else kwargs
        lines = self.lines
        batch.first_line = lines[0]
        if lines[-1] - lines[0] + 1 != len(lines):
            batch.skipped.extend([0, *(after - before - 1 for before, after in pairwise(lines))])
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


def _drop(name: str, kwargs: bytes) -> bytes:
    """Keyword arguments without the one of that name."""
    arguments = _decode(kwargs) if kwargs else {}
    arguments.pop(name, None)
    return _encode(arguments) if arguments else b""


class _Lines:
    """Lines that wait for a block, with their arguments."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.args: list[bytes] = []
        self.kwargs: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def extend(self, numbers: Iterable[int], args: Sequence[bytes], kwargs: Sequence[bytes] | None) -> None:
        """Put further lines behind these."""
        if kwargs is not None and self.kwargs is None:
            self.kwargs = [b""] * len(self.args)
        self.numbers.extend(numbers)
        self.args += args
        if self.kwargs is not None:
            self.kwargs += kwargs or [b""] * len(args)

    def move(self, count: int, there: _Lines) -> None:
        """Take the first `count` lines off, and put them behind others."""
        there.extend(self.numbers[:count], self.args[:count], None if self.kwargs is None else self.kwargs[:count])
        self.drop(count)

    def pick(self, wanted: Sequence[int], there: _Lines) -> None:
        """Take the lines with these numbers off, as far as they are here, and put them behind others."""
        if self.numbers[: len(wanted)] == list(wanted):
            self.move(len(wanted), there)
            return
        numbers, rest = set(wanted), _Lines()
        picked = sorted(
            (index for index, number in enumerate(self.numbers) if number in numbers), key=self.numbers.__getitem__
        )
        there.extend(*self._at(picked))
        rest.extend(*self._at([index for index, number in enumerate(self.numbers) if number not in numbers]))
        self.numbers, self.args, self.kwargs = rest.numbers, rest.args, rest.kwargs

    def _at(self, places: Sequence[int]) -> tuple[list[int], list[bytes], list[bytes] | None]:
        kwargs = None if self.kwargs is None else [self.kwargs[index] for index in places]
        return [self.numbers[index] for index in places], [self.args[index] for index in places], kwargs

    def drop(self, count: int) -> None:
        """Take the first `count` lines off."""
        del self.numbers[:count], self.args[:count]
        if self.kwargs is not None:
            del self.kwargs[:count]

    def sizes(self, count: int) -> list[int]:
        """Bytes in a block of each of the first `count` lines."""
        if self.kwargs is None:
            return [len(each) + _JOB_OVERHEAD for each in self.args[:count]]
        pairs = zip(self.args[:count], self.kwargs[:count], strict=True)
        return [len(args) + len(kwargs) + _JOB_OVERHEAD for args, kwargs in pairs]

    def block(self, count: int, *, known: KnownBlock | None = None) -> CutBlock:
        """A block of the first `count` lines."""
        args = self.args[:count]
        kwargs = None if self.kwargs is None else self.kwargs[:count]
        size = sum(map(len, args)) + (sum(map(len, kwargs)) if kwargs else 0) + _JOB_OVERHEAD * len(args)
        return CutBlock(args, kwargs if kwargs and any(kwargs) else None, self.numbers[:count], size, known)


class BlockCutter:
    """Cuts lines into blocks of growing size. `max_body` is the most bytes that a block may have in all.

    `most` is how many jobs the next block may have, up to `block_size`, and `target` how many bytes of arguments,
    unless a single line has more. Both may change at any time. `known` are the blocks of a run that is resumed: they
    are cut as before, and what differs is found.
    """

    def __init__(self, block_size: int, max_body: int, known: Iterable[KnownBlock] = ()) -> None:
        self.lines_seen = 0
        self.most = block_size
        self._block_size = block_size
        self._max_job = max_body - 2 * _JOB_OVERHEAD
        self.target = MOST_TARGET
        self._next_count = min(FIRST_BLOCK, block_size)
        self._known = deque(known)
        self._fresh = _Lines()
        self._moved = _Lines()  # in one known block, and then in a later one
        self._lost = _Lines()  # in a known block, and now to be sent in another
        self._bad: list[tuple[int, str]] = []

    @property
    def pending(self) -> bool:
        """Whether lines wait for a block to fill."""
        return bool(self._fresh) or bool(self._lost)

    @property
    def replaying(self) -> bool:
        """Whether known blocks are still to be cut."""
        return bool(self._known)

    def add(self, batch: Batch) -> None:
        """Take in the next lines."""
        count = len(batch.args)
        first = self.lines_seen + 1
        self.lines_seen += count
        if not batch.bad:
            self._fresh.extend(range(first, first + count), batch.args, batch.kwargs)
            return
        good = [position for position in range(count) if position not in batch.bad]
        self._fresh.extend(
            [first + position for position in good],
            [batch.args[position] for position in good],
            None if batch.kwargs is None else [batch.kwargs[position] for position in good],
        )
        self._bad += [(first + position, reason) for position, reason in batch.bad.items()]

    def cut(self, *, everything: bool = False) -> Iterator[CutBlock]:
        """The blocks that are full; with `everything`, a last one that is not, too.

        Raises:
            InputChanged: a line of a known block is not what it was.
        """
        while self._known and (block := self._cut_known(everything=everything)) is not None:
            yield block
        if not self._known and self._lost:
            self._fresh.move(len(self._fresh), self._lost)
            self._fresh, self._lost = self._lost, self._fresh
        for lines in (self._lost, self._fresh):
            while not (self._known and lines is self._fresh) and (block := self._cut_new(lines, everything)):
                yield block

    def take_bad(self) -> list[tuple[int, str]]:
        """The lines that become no jobs, with the reason, since this was last asked for."""
        bad, self._bad = self._bad, []
        return bad

    def _cut_new(self, lines: _Lines, everything: bool) -> CutBlock | None:
        while len(lines) >= (count := min(self._next_count, self.most)) or (everything and lines):
            if (block := self._take(lines, count)) is not None:
                self._next_count = min(self._next_count * 2, self._block_size)
                return block
        return None

    def _take(self, lines: _Lines, count: int) -> CutBlock | None:
        """The next block of at most `count` jobs; None when what came first was too large to be sent at all."""
        block = lines.block(count)
        target = min(self.target, self._max_job)
        if block.size > target:
            sizes = lines.sizes(count)
            if sizes[0] > self._max_job:
                self._drop_large(lines)
                return None
            block = lines.block(max(1, bisect_right(list(accumulate(sizes)), target)))
        lines.drop(len(block.lines))
        return block

    def _drop_large(self, lines: _Lines) -> None:
        self._bad.append((lines.numbers[0], f"the line's arguments are over the limit of {self._max_job} bytes"))
        lines.drop(1)

    def _cut_known(self, *, everything: bool) -> CutBlock | None:
        """The next known block, None while not all of its lines were read.

        Raises:
            InputChanged: a line is not what it was, or there are no such lines.
        """
        known = self._known[0]
        fresh, moved = self._fresh, self._moved
        while fresh and fresh.numbers[0] not in known.lines[:1] and fresh.sizes(1)[0] > self._max_job:
            self._drop_large(fresh)
        ahead = bisect_left(known.lines, fresh.numbers[0]) if fresh else known.count
        if (not everything and len(fresh) < known.count - ahead) or (not fresh and not everything):
            return None
        lines = _Lines()
        moved.pick(known.lines[:ahead], lines)
        fresh.move(known.count - len(lines), lines)
        _check(known, lines, self.lines_seen)
        self._known.popleft()
        block = lines.block(known.count, known=known)
        for jobs, there in ((known.moved, moved), (known.lost, self._lost)):
            if jobs:
                at = list(bitmap.indices(jobs))
                kwargs = None if block.kwargs is None else [block.kwargs[index] for index in at]
                there.extend([block.lines[index] for index in at], [block.args[index] for index in at], kwargs)
        return block


def _check(known: KnownBlock, lines: _Lines, seen: int) -> None:
    """Make sure that lines are those of a known block.

    Raises:
        InputChanged: naming the first one that is not.
    """
    hashes = hash_lines(lines.args, lines.kwargs)
    if hashes == known.hashes and lines.numbers == known.lines.tolist():
        return
    now = dict(zip(lines.numbers, line_hashes(hashes), strict=True))
    for number, was in zip(known.lines, line_hashes(known.hashes), strict=True):
        if number > seen:
            raise InputChanged(number, f"the input ends after line {seen}, and had a line {number} when the run began")
        if now.get(number) != was:
            raise InputChanged(number, f"line {number} of the input is not what it was when the run began")
    raise InputChanged(lines.numbers[0], f"line {lines.numbers[0]} of the input was not readable when the run began")
