"""`dts-admin doctor` on a cluster: what is missing or wrong is named, with what to do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

from tests.services.deployment import Deployment
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import wait_until

Found = dict[str, dict[str, str]]


def doctor(deployment: Deployment) -> tuple[int, Found]:
    """Its exit status and its findings by name."""
    done = deployment.admin("--json", "doctor")
    return done.returncode, {found["check"]: found for found in map(json.loads, done.stdout.splitlines())}


def bad(found: Found) -> set[str]:
    return {name for name, finding in found.items() if finding["verdict"] == "bad"}


def test_what_does_not_run_is_named_until_it_runs(cluster: Deployment, rabbit: RabbitServer) -> None:
    cluster.start_server()
    status, found = doctor(cluster)
    assert (status, bad(found)) == (1, {"porter", "timekeeper"})
    assert "python -m dts.server.daemons" in found["porter"]["advice"]
    assert "start a worker" in found["dts.jobs.default"]["advice"]
    cluster.start_daemons("some", "porter", "stethoscope")
    wait_until(lambda: bad(doctor(cluster)[1]) == {"timekeeper", "workers"}, "two daemons to be there")
    cluster.kill("some")
    cluster.start_worker()
    cluster.start_daemons()
    wait_until(lambda: doctor(cluster)[0] == 0, "everything to be well")
    rabbit.kill()
    wait_until(lambda: bad(doctor(cluster)[1]) == {"broker"}, "the broker to be missed")


def test_workers_and_their_routes_on_embedded_back_ends(embedded: Deployment) -> None:
    embedded.start_server()
    assert bad(doctor(embedded)[1]) == {"workers"}
    embedded.environment["DTS_WORKER_ROUTES"] = "international"
    embedded.start_worker()
    wait_until(lambda: bad(doctor(embedded)[1]) == {"route default"}, "the worker to be heard of")


def test_a_queue_with_other_arguments_is_named(cluster: Deployment) -> None:
    plain = cluster.broker_url
    cluster.broker_url = f"{plain}?delivery_limit=7"
    cluster.start_server()
    wait_until(lambda: doctor(cluster)[1]["dts.results"]["verdict"] == "ok", "the queues to be made")
    cluster.stop()
    cluster.broker_url = plain
    cluster.start_server()
    _, found = doctor(cluster)
    assert {"dts.results", "dts.jobs.default"} <= bad(found)
    assert "x-delivery-limit" in found["dts.results"]["detail"]
    assert found["dts.dead"]["verdict"] == "ok"


def test_why_a_server_does_not_start_is_said_on_its_host(cluster: Deployment, tmp_path: Path) -> None:
    (cluster.folder / "webapp.toml").write_text("")
    good_store, good_broker = cluster.store_url, cluster.broker_url
    assert good_store
    assert good_broker
    broken = {
        "store": [
            (good_store + "?replicaSet=rs9", "is replicaSet right?", "?replicaSet="),
            ("mongodb://127.0.0.1:1/x", "127.0.0.1:1: [Errno 111] Connection refused", "start the store"),
        ],
        "broker": [
            (good_broker.replace("guest:guest", "guest:wrong"), "Login was refused", "change_password"),
            (good_broker + "nowhere", "vhost nowhere not found", "add_vhost"),
        ],
    }
    for part, cases in broken.items():
        for url, detail, advice in cases:
            cluster.store_url, cluster.broker_url = good_store, good_broker
            setattr(cluster, f"{part}_url", url)
            done = cluster.admin("--json", "doctor", "-c", "webapp.toml")
            found = {each["check"]: each for each in map(json.loads, done.stdout.splitlines())}
            assert done.returncode == 1
            assert found[part]["verdict"] == "bad"
            assert detail in found[part]["detail"]
            assert advice in found[part]["advice"]


def test_a_server_that_waits_for_its_store_says_that_it_lives(embedded: Deployment) -> None:
    embedded.store_url = "mongodb://127.0.0.1:1/x"
    embedded.start("server", "dts-server", "--port", str(embedded.port))
    wait_until(lambda: answer(embedded, "live") == 200, "the server to answer")
    assert answer(embedded, "ready") == 503
    assert doctor(embedded)[1]["store"]["verdict"] == "bad"
    embedded.kill("server")


def answer(deployment: Deployment, name: str) -> int:
    try:
        with urllib.request.urlopen(f"{deployment.url}/health/{name}", timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
