"""The rule by which results become a record: a job ends once, the first terminal result wins.

A repeat changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dts.model.records import Block, Candidate, Outcome, Part


@dataclass(frozen=True, slots=True)
class Merge:
    """What merging candidates into an outcome gives: the outcome after, and the parts to add to it.

    `accepted` has, in the order of the candidates, the bitmap of jobs that each of them ended; 0 for a repeat.
    """

    before: Outcome
    after: Outcome
    parts: tuple[Part, ...]
    accepted: tuple[int, ...]

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.after != self.before


def new_outcome(block: Block) -> Outcome:
    """The outcome of a block of which nothing has become yet."""
    return Outcome(block.id, block.run, block.first, block.user, block.function, block.count)


def merge(outcome: Outcome, candidates: Iterable[Candidate]) -> Merge:
    """Merge candidates of one block into its outcome.

    A store writes `after` and `parts` in one atomic update that is guarded by `before.ended` and `before.parts`
    still being what is stored; when the guard fails it reads the outcome anew and merges again.
    """
    unfinished, running = outcome.unfinished, outcome.running
    succeeded, failed, cancelled = outcome.succeeded, outcome.failed, outcome.cancelled
    parts: list[Part] = []
    accepted: list[int] = []
    for candidate in candidates:
        fresh = candidate.ended & unfinished
        accepted.append(fresh)
        if fresh:
            unfinished &= ~fresh
            # A job that a candidate lists twice counts once, so that the counts always add up to the bitmap.
            good = candidate.succeeded & fresh
            bad = candidate.failed & fresh & ~good
            succeeded += good.bit_count()
            failed += bad.bit_count()
            cancelled += (fresh & ~good & ~bad).bit_count()
            number = outcome.parts + len(parts)
            parts.append(Part(outcome.block, number, fresh, candidate.body, candidate.content_encoding))
        running = running & ~candidate.stopped | candidate.running
    after = replace(
        outcome,
        ended=outcome.ended | (outcome.unfinished & ~unfinished),
        running=running & unfinished,
        succeeded=succeeded,
        failed=failed,
        cancelled=cancelled,
        parts=outcome.parts + len(parts),
    )
    return Merge(outcome, after, tuple(parts), tuple(accepted))
