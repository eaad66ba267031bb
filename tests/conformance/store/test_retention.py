"""Runs that are kept for a time: found by whose they are and when they finished."""

from __future__ import annotations

from dataclasses import replace

from dts.model import DeadLetter, Run, RunState
from dts.store import Store
from dts.store.contract.retention import LETTERS_AT_ONCE
from tests.conformance.store.builders import make_block, make_run, succeeded


async def runs_of(store: Store, user: str, *functions: str) -> list[Run]:
    """A run of each function."""
    runs = [replace(make_run(user), function=function) for function in functions]
    runs.sort(key=lambda run: run.id)
    for run in runs:
        await store.add_run(run)
    return runs


async def test_expired_runs_of_a_user_or_a_function_come_by_when_they_finished(store: Store) -> None:
    runs = [
        replace(make_run(user), function=function)
        for user, function in (("ann", "text/upper"), ("ann", ""), ("bob", "text/upper"), ("ann", "text/lower"))
    ]
    for run in runs:
        await store.add_run(run)
    later = store.now() + 60
    assert await store.expired_runs(user="ann", before=later, limit=9) == [], "none has finished"
    for run in runs[:3]:
        await store.update_run(run.id, state=RunState.CLOSED)
    finished = {run.id: run for run in await store.finished_runs(limit=9)}
    anns = [run for run in finished.values() if run.user == "ann"]
    assert {run.id for run in anns} == {runs[0].id, runs[1].id}
    assert await store.expired_runs(user="ann", before=later, limit=9) == anns
    assert anns[0].finished
    after = (anns[0].finished.time, anns[0].id)
    assert await store.expired_runs(user="ann", before=later, after=after, limit=9) == anns[1:]
    assert await store.expired_runs(user="ann", before=later, limit=1) == anns[:1]
    assert await store.expired_runs(user="ann", before=anns[0].finished.time, limit=9) == []
    upper = [run for run in finished.values() if run.function == "text/upper"]
    assert await store.expired_runs(function="text/upper", before=later, limit=9) == upper
    assert await store.expired_runs(function="", before=later, limit=9) == [finished[runs[1].id]]


async def test_the_functions_of_a_namespace_that_there_are_runs_of(store: Store) -> None:
    runs = await runs_of(store, "ann", "text/upper", "text/lower", "text/upper", "texts/upper", "tex/upper", "")
    for run in runs[:4]:
        await store.update_run(run.id, state=RunState.CLOSED)
    assert await store.functions_of_runs("text") == ["text/lower", "text/upper"]
    assert await store.functions_of_runs("none") == []


async def test_an_open_run_is_idle_without_unfinished_jobs_or_new_blocks(store: Store) -> None:
    old, at_work, fed, closed, young = (make_run(created=created) for created in (1.0, 1.0, 1.0, 1.0, 90.0))
    for run, created in ((old, 2.0), (at_work, 2.0), (fed, 90.0), (closed, 2.0)):
        block = make_block(run, count=2, created=created)
        await store.add_blocks([block], run=run)
        await store.record([succeeded(block, range(1 if run is at_work else 2))])
    await store.add_run(young)
    await store.update_run(closed.id, state=RunState.CLOSED)
    assert await store.idle_runs(user="ann", before=50.0, limit=9) == [old.id]
    assert await store.idle_runs(function="text/upper", before=50.0, limit=9) == [old.id]
    assert await store.idle_runs(user="bob", before=50.0, limit=9) == []
    assert len(await store.idle_runs(user="ann", before=99.0, limit=2)) == 2
    assert set(await store.idle_runs(user="ann", before=99.0, limit=9)) == {old.id, fed.id, young.id}


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
