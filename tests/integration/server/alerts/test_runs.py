"""Rules about runs that have finished: one notice for each run, and none for single jobs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dts.config import load_settings
from dts.model import AlertRule, Candidate, Run, RunState, new_id
from dts.server.alerts.runs import FinishedRunRules
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.notify.notice import Notice
from dts.server.notify.notifier import Notifier
from dts.store import Store, open_store
from dts.wire import codec, dts_pb2

RULES = [AlertRule("all", "run_finished", notify=("a@x.y",)), AlertRule("bad", "run_failed", notify=("a@x.y",))]


class Counting(Notifier):
    """Keeps the ids of the notices that are posted."""

    posted: list[str]

    async def post(self, notice: Notice, recipients: Iterable[str] = (), *, owner: str = "") -> None:
        await super().post(notice, recipients, owner=owner)
        self.posted.append(notice.id)


async def failed_run(store: Store, *, single: bool) -> str:
    """A run of one job that has failed."""
    run = Run(new_id(), "u", "n/f", 2048, created=1.0, single=single)
    block = new_block(run, 0, "n/f", batch_from_arguments([Arguments(b"[1]", b"")]))
    await store.add_blocks([block], run=run)
    batch = dts_pb2.ResultBatch(block=block.id, run=run.id, function="n/f")
    batch.results.add(index=0, status=dts_pb2.FAILED)
    await store.record([Candidate(block.id, *codec.encode(batch), failed=1)])
    ended = await store.update_run(run.id, state=RunState.CLOSED)
    assert ended is not None
    assert ended.finished is not None
    return run.id


async def test_a_run_is_posted_once_for_each_rule_however_often_it_is_looked_at(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        notifier = Counting(store, load_settings(None, environment={}, flags={}))
        notifier.posted = []
        rules = FinishedRunRules(store, notifier, "")
        await rules.look(RULES)
        run = await failed_run(store, single=False)
        await failed_run(store, single=True)
        for _ in range(3):
            await rules.look(RULES)
        assert sorted(notifier.posted) == [f"{run}.all", f"{run}.bad"]
        notifier.posted.clear()
        await FinishedRunRules(store, notifier, "").look(RULES)
        assert len(notifier.posted) == 2, "another process cannot know"
