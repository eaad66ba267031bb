"""Figures and health of every process, while lines go through."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.services.base import free_port
from tests.services.deployment import ROOT, Deployment, rows
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import wait_until

LINES = 3000

OF_SERVER = {
    *("dts_http_request_duration_seconds", "dts_store_call_duration_seconds", "dts_broker_call_duration_seconds"),
    *("dts_queue_messages", "dts_backlog_jobs", "dts_workers", "dts_heartbeat_age_seconds", "dts_alerts_active"),
    *("dts_store_errors", "dts_broker_errors", "dts_refused_messages", "dts_results_messages", "dts_dead_messages"),
}
OF_PORTER = {
    *("dts_jobs", "dts_job_duration_seconds", "dts_job_wait_seconds", "dts_attempts", "dts_porter_lag_seconds"),
    "dts_dead_letters",
}
OF_WORKER = {"dts_worker_children", "dts_worker_up", "dts_worker_messages", "dts_broker_call_duration_seconds"}


def fetch(url: str, method: str = "GET") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def scrape(port: int) -> tuple[set[str], list[Sample]]:
    """The names of the families that a process has, and its samples, by the parser of prometheus_client."""
    status, body = fetch(f"http://127.0.0.1:{port}/metrics")
    assert status == 200
    families = list(text_string_to_metric_families(body.decode()))
    return {family.name for family in families}, [sample for family in families for sample in family.samples]


def of(samples: list[Sample], name: str) -> Iterator[Sample]:
    return (sample for sample in samples if sample.name == name)


def test_every_process_has_its_figures_and_they_add_up(
    deployment: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    ports = {"worker": free_port(), "daemons": free_port()}
    deployment.start_server()
    ports["server"] = deployment.port
    if deployment.embedded:
        del ports["daemons"]
    else:
        deployment.environment["DTS_METRICS_PORT"] = str(ports["daemons"])
        deployment.start_daemons()
    deployment.environment["DTS_METRICS_PORT"] = str(ports["worker"])
    deployment.start_worker()
    infile, outfile = lines_file(LINES), tmp_path / "out.json"
    assert deployment.run_client("text/upper", infile, outfile).returncode == 0
    assert len(rows(outfile)) == LINES

    names, samples = scrape(ports["server"])
    assert names >= OF_SERVER
    assert {sample.labels["route"] for sample in of(samples, "dts_queue_messages")} == {"default"}
    [unfinished] = of(samples, "dts_backlog_jobs")
    assert unfinished.value == 0
    requests = Counter[tuple[str, str]]()
    for sample in of(samples, "dts_http_request_duration_seconds_count"):
        requests[sample.labels["route"], sample.labels["method"]] += int(sample.value)
    assert requests["/runs/{id}/blocks/{number}", "PUT"] > 0
    assert all("{" in route or route.strip("/").replace("/", "").isalpha() for route, _ in requests), requests

    names, samples = scrape(ports["server" if deployment.embedded else "daemons"])
    assert names >= OF_PORTER
    ended = {(each.labels["function"], each.labels["state"]): each.value for each in of(samples, "dts_jobs_total")}
    assert ended == {("upper", "succeeded"): LINES}
    [durations] = of(samples, "dts_job_duration_seconds_count")
    assert durations.value >= LINES
    [waits] = of(samples, "dts_job_wait_seconds_sum")
    assert waits.value > 0

    names, samples = scrape(ports["worker"])
    assert names >= OF_WORKER
    assert [sample.value for sample in of(samples, "dts_worker_up")] == [1]

    for port in ports.values():
        for path in ("/health/live", "/health/ready"):
            url = f"http://127.0.0.1:{port}{path}"
            wait_until(lambda url=url: fetch(url)[0] == 200, f"{url} to be well")
            assert fetch(url, "HEAD") == (200, b"")
    page = (ROOT / "docs/operations.md").read_text()
    for name in sorted(OF_SERVER | OF_PORTER | OF_WORKER):
        assert f"`{name}" in page, f"{name} is not on the page"


def test_a_process_names_what_it_is_not_ready_for(cluster: Deployment, rabbit: RabbitServer) -> None:
    port = free_port()
    cluster.start_server()
    cluster.environment["DTS_METRICS_PORT"] = str(port)
    cluster.start_daemons()
    url = f"http://127.0.0.1:{port}/health/ready"

    def answers() -> bool:
        try:
            return fetch(url)[0] == 200
        except OSError:
            return False

    wait_until(answers, "the daemons to be ready")
    rabbit.kill()
    wait_until(lambda: fetch(url)[0] == 503, "the daemons to notice")
    state = json.loads(fetch(url)[1])
    assert state["status"] == "unavailable"
    assert list(state["missing"]) == ["broker"]
    assert fetch(f"http://127.0.0.1:{port}/health/live") == (200, b'{"status": "ok"}')
