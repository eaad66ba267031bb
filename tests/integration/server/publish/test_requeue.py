"""A run that an operator has published again."""

from __future__ import annotations

from dts.management.client import AdminClient
from dts.model import RunState
from tests.integration.conftest import Site, a_run_with_jobs


async def test_an_operator_has_a_run_published_again_on_record(site: Site) -> None:
    operator = await site.add_user("olga", roles=["operator"])
    run, _ = await a_run_with_jobs(site, "admin", "text/upper", count=10)
    assert await operator.call("POST", f"/admin/runs/{run}/requeue") == {"jobs": 10, "blocks": 1}
    batches = await site.take_messages(10)
    assert sorted(job.index for batch in batches for job in batch.jobs) == list(range(10))
    log = await operator.call("GET", "/admin/operations/?op_type=runs.requeue")
    assert [(entry["operator"], entry["doc_id"], entry["outcome"]) for entry in log] == [
        ("olga", run, "done"),
        ("olga", run, "begun"),
    ]


async def test_a_run_that_is_paused_or_cancelled_is_not_published_again(site: Site) -> None:
    api = site.api()
    run, _ = await a_run_with_jobs(site, "admin", "text/upper")
    await site.store.update_run(run, paused=True)
    message = await api.refused("POST", f"/admin/runs/{run}/requeue", status=409, code="run_not_open")
    assert "resume" in message
    await site.store.update_run(run, state=RunState.CANCELLED, paused=False)
    await api.refused("POST", f"/admin/runs/{run}/requeue", status=409, code="run_not_open")
    await api.refused("POST", "/admin/runs/01unknown/requeue", status=404, code="not_found")


async def test_the_client_for_programs_has_a_run_published_again(site: Site) -> None:
    run, _ = await a_run_with_jobs(site, "admin", "text/upper", count=3)
    secret = site.settings.server.admin_secret_file.read_text().strip()
    async with AdminClient("admin", secret, site.url) as admin:
        assert await admin.runs.requeue(run) == {"jobs": 3, "blocks": 1}
