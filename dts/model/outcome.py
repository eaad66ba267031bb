"""The rule by which results become a record: a job ends once, the first terminal result wins.

A repeat changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dts.model.records import Candidate, Outcome, Part


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


def merge(outcome: Outcome, candidates: Iterable[Candidate]) -> Merge:
    """Merge candidates of one block into its outcome.

    A store writes `after` and `parts` in one atomic update that is guarded by `before.ended` and `before.parts`
    still being what is stored; when the guard fails it reads the outcome anew and merges again.
    """
    after = outcome
    parts: list[Part] = []
    accepted: list[int] = []
    for candidate in candidates:
        fresh = candidate.ended & after.unfinished
        accepted.append(fresh)
        running = (after.running | candidate.running) & after.unfinished & ~fresh
        if not fresh:
            after = replace(after, running=running)
            continue
        parts.append(Part(after.block, after.parts, fresh, candidate.body, candidate.content_encoding))
        # A job that the candidate lists twice counts once, so that the counts always add up to the bitmap.
        succeeded = candidate.succeeded & fresh
        failed = candidate.failed & fresh & ~succeeded
        after = replace(
            after,
            ended=after.ended | fresh,
            running=running,
            succeeded=after.succeeded + succeeded.bit_count(),
            failed=after.failed + failed.bit_count(),
            cancelled=after.cancelled + (fresh & ~succeeded & ~failed).bit_count(),
            parts=after.parts + 1,
        )
    return Merge(outcome, after, tuple(parts), tuple(accepted))
