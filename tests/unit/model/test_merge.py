"""However results come, every job of a block ends exactly once, and the first terminal result wins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dts.model import Candidate, Outcome, Part, bitmap, merge

COUNT = 20
BITS = st.integers(0, (1 << (COUNT + 4)) - 1)  # a few beyond the block, too
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.just("run-0"),
        st.binary(max_size=3),
        st.just(""),
        succeeded=BITS,
        failed=BITS,
        cancelled=BITS,
        running=BITS,
    ),
    max_size=12,
)


def empty() -> Outcome:
    return Outcome("run-0", "run", 0, "ann", "text/upper", COUNT)


@given(CANDIDATES)
def test_every_job_ends_once(candidates: list[Candidate]) -> None:
    merged = merge(empty(), candidates)
    after = merged.after
    everything = 0
    for candidate in candidates:
        everything |= candidate.ended
    assert after.ended == everything & bitmap.full(COUNT)
    assert after.succeeded + after.failed + after.cancelled == after.ended.bit_count()
    assert sum(part.jobs.bit_count() for part in merged.parts) == after.ended.bit_count()
    assert sum(part.jobs for part in merged.parts) == after.ended
    assert after.running & (after.ended | ~bitmap.full(COUNT)) == 0
    assert [part.number for part in merged.parts] == list(range(after.parts))


@given(CANDIDATES)
def test_the_first_result_of_a_job_wins(candidates: list[Candidate]) -> None:
    merged = merge(empty(), candidates)
    seen = 0
    for candidate, accepted in zip(candidates, merged.accepted, strict=True):
        assert accepted == candidate.ended & bitmap.full(COUNT) & ~seen
        seen |= accepted
    bodies = [candidate.body for candidate, accepted in zip(candidates, merged.accepted, strict=True) if accepted]
    assert [part.body for part in merged.parts] == bodies


@given(CANDIDATES, st.integers(0, 12))
def test_it_does_not_matter_how_candidates_are_grouped(candidates: list[Candidate], at: int) -> None:
    whole = merge(empty(), candidates)
    first = merge(empty(), candidates[:at])
    second = merge(first.after, candidates[at:])
    assert second.after == whole.after
    assert first.parts + second.parts == whole.parts
    assert first.accepted + second.accepted == whole.accepted


@given(CANDIDATES)
def test_a_repeat_changes_nothing(candidates: list[Candidate]) -> None:
    after = merge(empty(), candidates).after
    again = merge(after, candidates)
    assert not again.changed
    assert again.parts == ()
    assert set(again.accepted) <= {0}


def test_running_is_noted_without_a_part() -> None:
    merged = merge(empty(), [Candidate("run-0", running=0b111), Candidate("run-0", b"r", "", succeeded=0b010)])
    assert merged.after.running == 0b101
    assert merged.parts == (Part("run-0", 0, 0b010, b"r", ""),)
    assert merged.parts[0].receipt == "0.0"


def test_nothing_is_no_change() -> None:
    assert not merge(empty(), []).changed
    assert not merge(empty(), [Candidate("run-0")]).changed
