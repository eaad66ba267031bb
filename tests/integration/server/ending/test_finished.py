"""What is to follow the end of a run is done once the run has finished, and until it has worked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dts.errors import BrokerUnavailable
from dts.model import Candidate, Run, RunState, new_id
from dts.server.ending.finished import FinishedRuns
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from tests.integration.conftest import Site


async def a_run(site: Site, *, state: RunState = RunState.CLOSED, follow_up: bool = True) -> Run:
    """A run of one job."""
    run = Run(new_id(), "admin", "text/upper", 8, state, created=1.0, follow_up=follow_up)
    block = new_block(run, 0, run.function, batch_from_arguments([Arguments(b"[1]", b"")]))
    await site.store.add_blocks([replace(block, published=True)], run=run)
    return run


async def end(site: Site, run: Run) -> None:
    await site.store.record([Candidate(f"{run.id}-0", b"results", succeeded=1)])


async def test_each_follower_hears_once_of_a_run_that_has_finished(site: Site) -> None:
    heard: list[tuple[str, str]] = []

    async def first(run: Run) -> None:
        heard.append(("first", run.id))

    async def second(run: Run) -> None:
        assert run.finished is not None
        assert run.finished.succeeded == 1
        heard.append(("second", run.id))

    finished = FinishedRuns(site.store, [first, second])
    early, late, other = await a_run(site), await a_run(site), await a_run(site, follow_up=False)
    await finished.follow_up()
    assert heard == []
    for run in (early, other):
        await end(site, run)
    for _ in range(2):
        await finished.follow_up()
    assert heard == [("first", early.id), ("second", early.id)]
    await end(site, late)
    await finished.follow_up()
    assert heard[2:] == [("first", late.id), ("second", late.id)]


async def test_a_follower_that_fails_is_called_again_and_keeps_no_other_run_waiting(site: Site) -> None:
    runs = [await a_run(site) for _ in range(3)]
    for run in runs:
        await end(site, run)
    broken = {runs[0].id}
    heard: list[str] = []

    async def follow(run: Run) -> None:
        if run.id in broken:
            raise ValueError("not now")
        heard.append(run.id)

    finished = FinishedRuns(site.store, [follow])
    await finished.follow_up()
    assert heard == [runs[1].id, runs[2].id]
    broken.clear()
    await finished.follow_up()
    assert heard == [runs[1].id, runs[2].id, runs[0].id]


async def test_a_broker_that_is_away_is_waited_for(site: Site) -> None:
    run = await a_run(site)
    await end(site, run)

    async def follow(_: Run) -> None:
        raise BrokerUnavailable("not now")

    with pytest.raises(BrokerUnavailable):
        await FinishedRuns(site.store, [follow]).follow_up()
    assert [each.id for each in await site.store.runs_to_follow_up(limit=9)] == [run.id]


async def test_a_run_says_when_and_how_it_has_finished(site: Site) -> None:
    api = site.api()
    run = await a_run(site, state=RunState.OPEN, follow_up=False)
    await end(site, run)
    seen = await api.call("GET", f"/runs/{run.id}")
    assert seen["finished"] is False
    assert "finished_at" not in seen
    closed = await api.call("PATCH", f"/runs/{run.id}", {"state": "closed"})
    assert closed["finished"] is True
    assert closed["counts"] == {"total": 1, "succeeded": 1, "failed": 0, "cancelled": 0}
    [listed] = await api.call("GET", "/runs/")
    assert (listed["finished_at"], listed["counts"]) == (closed["finished_at"], closed["counts"])
    cancelled = await api.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    answer = await api.call("DELETE", f"/runs/{cancelled['id']}")
    assert (answer["finished"], answer["counts"]["total"]) == (True, 0)
