"""What doctor makes of what it finds."""

from __future__ import annotations

import email.utils
from pathlib import Path
from typing import Any

import pytest

from dts.management.doctor.local import BUNDLED, check_configuration, check_functions, check_modules, check_secret_files
from dts.management.doctor.remote import Finding, Verdict, judge_clock, judge_diagnosis, judge_latency, judge_readiness

NOW = 1_700_000_000.0


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {finding.check: finding.verdict for finding in findings}


@pytest.mark.parametrize(
    ("skew", "verdict"),
    [(0, "ok"), (-29, "ok"), (31, "warning"), (-299, "warning"), (301, "bad"), (-90_000, "bad")],
)
def test_clocks_may_differ_within_the_window_of_signatures(skew: float, verdict: str) -> None:
    found = judge_clock(email.utils.formatdate(NOW, usegmt=True), NOW + skew)
    assert found.verdict == verdict
    assert bool(found.advice) is (verdict != "ok")


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_server_without_a_date_is_worth_a_word(date: str | None) -> None:
    assert judge_clock(date, NOW).verdict is Verdict.WARNING


def test_a_slow_answer_is_worth_a_word() -> None:
    assert judge_latency("store", "it answers", 0.01).verdict is Verdict.OK
    assert judge_latency("store", "it answers", 2.0).verdict is Verdict.WARNING


def test_a_server_that_cannot_be_read_is_not_ready() -> None:
    assert verdicts(judge_readiness("connection refused")) == {"ready": Verdict.BAD}


# the server's diagnosis


@pytest.fixture
def facts() -> dict[str, Any]:
    """A healthy cluster."""
    return {
        "store": {"kind": "mongodb", "state": "ok", "latency": 0.002},
        "broker": {"kind": "amqp", "state": "ok", "latency": 0.003, "consumer_timeout": None},
        "queues": [
            {"name": "dts.jobs.default", "ready": 5, "consumers": 3, "problem": ""},
            {"name": "dts.results", "ready": 0, "consumers": 1, "problem": ""},
            {"name": "dts.dead", "ready": 0, "consumers": 1, "problem": ""},
        ],
        "daemons": {"inside": [], "present": ["porter", "stethoscope", "logtracer", "timekeeper"]},
        "time": NOW,
        "workers": {"live": 3, "known": 3, "hosts": 2, "last": NOW - 2, "silent": [], "clocks": [], "stalled": []},
        "routes": [{"route": "default", "functions": ["crm/call"], "workers": 3}],
        "timeouts": [{"id": "crm/call", "timeout": 60.0}],
    }


def test_a_healthy_cluster_is_ok(facts: dict[str, Any]) -> None:
    assert set(verdicts(judge_diagnosis(facts)).values()) == {Verdict.OK}


def test_an_embedded_deployment_has_no_consumer_timeout(facts: dict[str, Any]) -> None:
    facts["broker"]["kind"] = "sqlite"
    facts["timeouts"] = [{"id": "a/b", "timeout": 99_999.0}]
    assert verdicts(judge_diagnosis(facts))["consumer timeout"] is Verdict.OK


def test_what_is_away_is_bad(facts: dict[str, Any]) -> None:
    facts["store"] = {"kind": "mongodb", "state": "not reachable", "latency": 0.0}
    assert verdicts(judge_diagnosis(facts))["store"] is Verdict.BAD


@pytest.mark.parametrize(("ready", "verdict"), [(0, "warning"), (7, "bad")])
def test_jobs_that_nobody_takes(ready: int, verdict: str, facts: dict[str, Any]) -> None:
    facts["queues"][0] |= {"ready": ready, "consumers": 0}
    [found] = [each for each in judge_diagnosis(facts) if each.check == "dts.jobs.default"]
    assert found.verdict == verdict
    assert "start a worker" in found.advice


@pytest.mark.parametrize(
    ("missing", "verdict"),
    [("porter", "bad"), ("timekeeper", "bad"), ("stethoscope", "warning"), ("logtracer", "warning")],
)
def test_a_daemon_that_does_not_answer_is_named(missing: str, verdict: str, facts: dict[str, Any]) -> None:
    facts["daemons"]["present"].remove(missing)
    found = {each.check: each for each in judge_diagnosis(facts)}
    assert found[missing].verdict == verdict
    assert "python -m dts.server.daemons" in found[missing].advice
    assert {name for name, each in found.items() if each.verdict is not Verdict.OK} == {missing}


def test_where_the_daemons_are_is_told(facts: dict[str, Any]) -> None:
    facts["daemons"]["inside"] = ["porter", "timekeeper"]
    [found] = [each for each in judge_diagnosis(facts) if each.check == "daemons"]
    assert found.detail == "at work: porter, timekeeper inside the server; stethoscope, logtracer elsewhere"
    facts["daemons"] = {"inside": [], "present": []}
    assert "daemons" not in verdicts(judge_diagnosis(facts))


@pytest.mark.parametrize(
    ("known", "last", "detail"), [(0, None, "no worker was ever heard of"), (4, NOW - 95, "95 s ago")]
)
def test_a_fleet_without_a_live_worker_is_bad(
    known: int, last: float | None, detail: str, facts: dict[str, Any]
) -> None:
    facts["workers"] = {"live": 0, "known": known, "hosts": 0, "last": last, "silent": [], "clocks": [], "stalled": []}
    [found] = [each for each in judge_diagnosis(facts) if each.check == "workers"]
    assert found.verdict is Verdict.BAD
    assert detail in found.detail
    assert "python -m dts.worker" in found.advice


def test_a_route_that_no_live_worker_serves_is_bad(facts: dict[str, Any]) -> None:
    names = [f"calls/f{number}" for number in range(7)]
    facts["routes"].append({"route": "international", "functions": names, "workers": 0})
    found = {each.check: each for each in judge_diagnosis(facts)}
    assert found["route default"].verdict is Verdict.OK
    assert found["route international"].verdict is Verdict.BAD
    assert "calls/f4 and 2 more" in found["route international"].detail


def test_a_route_that_was_left_with_jobs_on_it_is_bad_until_a_worker_serves_it(facts: dict[str, Any]) -> None:
    facts["routes"].append({"route": "special", "functions": ["crm/call"], "workers": 0, "left": True})
    found = {each.check: each for each in judge_diagnosis(facts)}["route special"]
    assert found.verdict is Verdict.BAD
    assert "before crm/call left it" in found.detail
    assert "runs requeue" in found.advice
    facts["routes"][-1]["workers"] = 1
    assert {each.check: each for each in judge_diagnosis(facts)}["route special"].verdict is Verdict.OK


def test_a_clock_that_is_wrong_is_worth_a_word(facts: dict[str, Any]) -> None:
    facts["ahead"] = -7200.0
    facts["workers"]["clocks"] = [{"host": "worker2", "ahead": -40.0}, {"host": "worker3", "ahead": 20.0}]
    found = {
        each.check: each
        for each in judge_diagnosis(facts)
        if each.check.endswith(" clock") or each.check == "host clocks"
    }
    assert found["store clock"].detail == "the server is 7200 s behind the store"
    assert found["host clocks"].detail == "worker2 is 40 s behind the store"


def test_a_worker_that_takes_nothing_though_it_could_is_a_fault(facts: dict[str, Any]) -> None:
    said = "w1 on host1: stalled: children are free, messages wait, nothing taken for 42 s"
    facts["workers"]["stalled"] = [said]
    found = [each for each in judge_diagnosis(facts) if each.check == "workers"]
    assert [(each.verdict, each.detail) for each in found][-1] == (Verdict.BAD, said)


def test_a_host_that_has_gone_silent_is_worth_a_word(facts: dict[str, Any]) -> None:
    facts["workers"]["silent"] = [{"host": "worker2", "last": NOW - 600}]
    [found] = [each for each in judge_diagnosis(facts) if each.check == "silent hosts"]
    assert (found.verdict, found.detail) == (Verdict.WARNING, "worker2 (600 s)")


def test_dead_letters_and_backlogs_are_worth_a_word(facts: dict[str, Any]) -> None:
    facts["queues"][1]["ready"] = 50_000
    facts["queues"][2]["ready"] = 1
    found = verdicts(judge_diagnosis(facts))
    assert (found["dts.results"], found["dts.dead"]) == (Verdict.WARNING, Verdict.WARNING)


def test_a_queue_with_a_problem_is_bad(facts: dict[str, Any]) -> None:
    facts["queues"][0]["problem"] = "exists with other arguments"
    assert verdicts(judge_diagnosis(facts))["dts.jobs.default"] is Verdict.BAD


def test_a_function_that_may_outlast_the_brokers_patience(facts: dict[str, Any]) -> None:
    facts["timeouts"].append({"id": "slow/one", "timeout": 7200.0})
    [found] = [each for each in judge_diagnosis(facts) if each.check == "consumer timeout"]
    assert found.verdict is Verdict.WARNING
    assert "slow/one (7200 s)" in found.detail
    facts["broker"]["consumer_timeout"] = 10_000.0
    assert verdicts(judge_diagnosis(facts))["consumer timeout"] is Verdict.OK


# this machine


@pytest.mark.parametrize(("mode", "verdict"), [(0o600, "ok"), (0o400, "ok"), (0o640, "bad"), (0o644, "bad")])
def test_a_secret_is_for_its_owner_alone(mode: int, verdict: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(mode)
    [found] = [each for each in check_secret_files(str(path), {}) if str(path) in each.detail]
    assert found.verdict == verdict
    if verdict == "bad":
        assert f"chmod 600 {path}" in found.advice


def test_a_file_that_the_environment_names_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(0o604)
    assert Verdict.BAD in verdicts(check_secret_files(None, {"DTS_SECRET_FILE": str(path)})).values()


def test_a_configuration_is_checked_with_the_files_that_it_names(tmp_path: Path) -> None:
    key = tmp_path / "server.key"
    key.write_text("k")
    key.chmod(0o644)
    config = tmp_path / "webapp.toml"
    config.write_text(f'[server]\nkey_file = "{key}"\n')
    findings, settings = check_configuration(str(config))
    assert settings is not None
    assert verdicts(findings) == {"configuration": Verdict.OK, "key files": Verdict.BAD}
    config.write_text("[server]\nprot = 8000\n")
    findings, settings = check_configuration(str(config))
    assert settings is None
    assert "prot" in findings[0].detail


def test_the_functions_in_are_functions() -> None:
    assert verdicts(check_functions(BUNDLED)) == {"functions": Verdict.OK}


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("good.py", "from elsewhere import run as main\n", ""),
        ("good.py", "class main:\n    pass\n", ""),
        ("good.py", "main = lambda x: x\n", ""),
        ("bad.py", "def mian():\n    pass\n", "it has no main"),
        ("bad.py", "def main(:\n", "it cannot be read"),
        ("Bad.py", "def main(): pass\n", "its name cannot be a function's"),
        ("bad.py", "x = '\0'\n", "it cannot be read"),
    ],
)
def test_a_module_that_is_no_function_is_found(name: str, source: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "ns").mkdir()
    (tmp_path / "ns" / name).write_text(source)
    findings = check_functions(tmp_path)
    assert (len(findings) == 1) is (problem == "")
    assert problem in findings[0].detail


def test_a_functions_directory_that_is_not_there_is_bad(tmp_path: Path) -> None:
    assert verdicts(check_functions(tmp_path / "missing")) == {"functions": Verdict.BAD}


def test_a_function_without_a_module_is_worth_a_word(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "count.py").write_text("def main(): pass\n")
    names = ["own/count", "text/upper"]
    assert check_modules(names, tmp_path) == []
    [found] = check_modules([*names, "own/missing"], tmp_path)
    assert (found.verdict, found.detail) == (Verdict.WARNING, f"registered, and not in {tmp_path}: own/missing")


def test_nobody_knows_of_workers_without_a_stethoscope(facts: dict[str, Any]) -> None:
    facts["daemons"]["present"].remove("stethoscope")
    facts["workers"] |= {"live": 0, "last": None}
    found = verdicts(judge_diagnosis(facts))
    assert (found["workers"], found["stethoscope"]) == (Verdict.WARNING, Verdict.WARNING)


def test_a_worker_without_children_is_not_alive(facts: dict[str, Any]) -> None:
    facts["workers"] |= {"live": 0, "childless": ["w1"], "notes": []}
    facts["routes"][0]["workers"] = 0
    found = verdicts(judge_diagnosis(facts))
    assert found["childless workers"] is Verdict.BAD
    assert "workers" not in found, "nobody is to start one: there is one, and it cannot work"


def test_what_workers_say_of_themselves_is_one_finding_for_all_that_say_it(facts: dict[str, Any]) -> None:
    facts["workers"]["notes"] = [{"worker": f"w{n}", "note": "its RabbitMQ user may do too much"} for n in range(3)]
    [found] = [each for each in judge_diagnosis(facts) if each.verdict is not Verdict.OK]
    assert (found.verdict, found.detail) == (Verdict.WARNING, "w0, w1, w2: its RabbitMQ user may do too much")
