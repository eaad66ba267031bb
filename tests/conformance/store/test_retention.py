"""Runs that are kept for a time: found by whose they are, and noted."""

from __future__ import annotations

from dataclasses import replace

from dts.model import DeadLetter, Run
from dts.store import Store
from dts.store.contract.retention import LETTERS_AT_ONCE, RunNote
from tests.conformance.store.builders import make_run


async def runs_of(store: Store, user: str, *functions: str) -> list[Run]:
    """A run of each function."""
    runs = [replace(make_run(user), function=function) for function in functions]
    runs.sort(key=lambda run: run.id)
    for run in runs:
        await store.add_run(run)
    return runs


async def test_the_oldest_runs_of_a_user_or_a_function_come_first(store: Store) -> None:
    anns = await runs_of(store, "ann", "text/upper", "text/upper", "text/lower", "")
    bobs = await runs_of(store, "bob", "text/upper")
    found = await store.oldest_runs(user="ann", after="", before="z", limit=10)
    assert found == anns
    assert await store.oldest_runs(user="ann", after=anns[0].id, before=anns[3].id, limit=10) == anns[1:3]
    assert await store.oldest_runs(user="ann", after="", before="z", limit=2) == anns[:2]
    upper = sorted([run for run in anns + bobs if run.function == "text/upper"], key=lambda run: run.id)
    assert await store.oldest_runs(function="text/upper", after="", before="z", limit=10) == upper
    assert [run.user for run in await store.oldest_runs(function="", after="", before="z", limit=10)] == ["ann"]


async def test_the_functions_of_a_namespace_that_there_are_runs_of(store: Store) -> None:
    await runs_of(store, "ann", "text/upper", "text/lower", "text/upper", "texts/upper", "tex/upper", "")
    assert await store.functions_of_runs("text") == ["text/lower", "text/upper"]
    assert await store.functions_of_runs("none") == []


async def test_notes_are_kept_by_subject_and_run_and_replaced(store: Store) -> None:
    notes = [RunNote("user ann", f"r{n}", None if n % 2 else 10.0 * n, n) for n in range(6)]
    await store.write_notes([*notes, RunNote("function text/upper", "r9", 5.0, 1)])
    await store.write_notes([])
    assert await store.last_noted("user ann") == "r5"
    assert await store.last_noted("nobody") == ""
    assert await store.unfinished_notes("user ann", limit=10) == [notes[1], notes[3], notes[5]]
    assert await store.unfinished_notes("user ann", limit=1, after="r1") == [notes[3]]
    assert await store.finished_notes("user ann", until=20.0, limit=10) == [notes[0], notes[2]]
    assert await store.finished_notes("user ann", until=99.0, limit=1, after=(0.0, "r0")) == [notes[2]]
    changed = replace(notes[3], finished=20.0)
    await store.write_notes([changed])
    assert await store.unfinished_notes("user ann", limit=10) == [notes[1], notes[5]]
    assert await store.finished_notes("user ann", until=30.0, limit=10, after=(20.0, "r2")) == [changed]
    await store.delete_run("r3", blocks=10)
    assert await store.finished_notes("user ann", until=30.0, limit=10, after=(20.0, "r2")) == []


def a_letter(name: str, died: float, run: str = "", *, size: int = 10) -> DeadLetter:
    """A dead letter of a run."""
    return DeadLetter(name, "dts.jobs.default", "poison", b"x" * size, "", {"run": run} if run else {}, died)


async def left_letters(store: Store) -> list[str]:
    """The ids of all letters that there are."""
    return [letter.id for letter in await store.list_dead_letters(limit=10_000)]


async def test_dead_letters_go_with_their_run(store: Store) -> None:
    gone, kept = await runs_of(store, "ann", "text/upper", "text/upper")
    of_run = [a_letter(f"a{number:04}", 1.0, gone.id) for number in range(LETTERS_AT_ONCE + 1)]
    large = a_letter("a9999", 1.0, gone.id, size=17 * 1024 * 1024)
    await store.add_dead_letters([*of_run, large, a_letter("b", 1.0, kept.id), a_letter("c", 1.0)])
    calls = 1
    while not await store.delete_run(gone.id, blocks=10):
        assert await store.get_run(gone.id) == gone, "it goes last"
        calls += 1
    assert calls == 2
    assert await left_letters(store) == ["b", "c"]
    assert [await store.get_run(run.id) for run in (gone, kept)] == [None, kept]


async def test_dead_letters_that_are_too_old_or_too_many_go_oldest_first(store: Store) -> None:
    assert await store.forget_dead_letters(before=100.0, keep=0, limit=10) == 0
    await store.add_dead_letters([a_letter(name, died) for name, died in zip("fbadce", range(1, 7), strict=True)])
    assert await store.forget_dead_letters(before=1.0, keep=6, limit=10) == 0
    assert await store.forget_dead_letters(before=3.0, keep=6, limit=10) == 2
    assert await left_letters(store) == ["a", "c", "d", "e"]
    assert await store.forget_dead_letters(before=3.0, keep=2, limit=1) == 1
    assert await store.forget_dead_letters(before=3.0, keep=2, limit=10) == 1
    assert await store.forget_dead_letters(before=3.0, keep=2, limit=10) == 0
    assert await left_letters(store) == ["c", "e"]
