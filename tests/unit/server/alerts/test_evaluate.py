"""What is an alert, by a clock that the tests move: thresholds, flapping, silences, groups, and what people learn."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import msgspec
import pytest

from dts.config import DaemonsSettings
from dts.management.commands.alerts import KINDS as COMMAND_KINDS
from dts.model import AlertRule, LogEntry, Silence, VirtualHost, WorkerState
from dts.server.alerts.evaluate import Given, evaluate
from dts.server.alerts.kinds import KINDS
from dts.server.alerts.log_rules import LogRules
from dts.server.alerts.observe import Snapshot, Traffic, observe
from dts.server.alerts.rules import built_in_rules
from dts.server.alerts.signals import Signal, key_of
from dts.server.alerts.state import AlertState, Event, Phase
from dts.server.alerts.wording import compose
from dts.server.notify.notice import Notice

START = 1_000_000.0
DISK = AlertRule("disk", "disk", 90.0, lasting=60.0, repeat=0.0)


@dataclass
class Life:
    """A fleet over time, and the notices that its rules have given."""

    rules: list[AlertRule] = field(default_factory=lambda: [DISK])
    silences: list[Silence] = field(default_factory=list)
    now: float = START
    states: dict[str, AlertState] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(START))
    recipients: list[tuple[str, ...]] = field(default_factory=list)

    def tick(self, seconds: float = 5.0, signals: tuple[Signal, ...] = (), **changes: Any) -> list[str]:
        """Let time pass, look, and give the kinds of the notices that come of it."""
        self.now += seconds
        self.snapshot = replace(self.snapshot, now=self.now, **changes)
        given = Given(self.now, self.rules, self.silences, observe(self.snapshot), signals)
        for change in evaluate(given, self.states):
            self.states.pop(change.id, None)
            if change.after is not None:
                self.states[change.id] = msgspec.structs.replace(change.after, batch=f"b{self.now:.0f}")
        made = compose(self.states.values(), "https://dts.example")
        self.notices += [notice for notice, _ in made]
        self.recipients += [recipients for _, recipients in made]
        self.states = {
            key: msgspec.structs.replace(state, owed=None, news=0) if state.owed else state
            for key, state in self.states.items()
            if state.phase is not Phase.ENDED
        }
        return [notice.kind for notice, _ in made]

    def host(self, seconds: float = 5.0, name: str = "a", **figures: float) -> list[str]:
        """A heartbeat of a host, heard now."""
        self.now += seconds
        others = [state for state in self.snapshot.workers if state.host != name]
        state = WorkerState(f"{name}-1", name, self.now, state="working", routes=("default",), **figures)  # type: ignore[arg-type]
        return self.tick(0.0, workers=(*others, state))


def during(life: Life, seconds: float, **figures: float) -> list[str]:
    """A host for a while, all the time the same."""
    return [kind for _ in range(int(seconds / 5)) for kind in life.host(5.0, **figures)]


def test_a_disk_that_crosses_its_threshold_flaps_and_recovers_is_two_notices() -> None:
    life = Life()
    assert during(life, 300, disk=80) == []
    assert during(life, 120, disk=95) == ["alert.began"]
    for _ in range(50):
        assert life.host(disk=89.5) == life.host(disk=91) == life.host(disk=50) == life.host(disk=97) == []
    assert during(life, 200, disk=50) == ["alert.ended"]
    assert during(life, 600, disk=50) == []
    began, ended = life.notices
    assert began.title == "a: disk at 95 %"
    assert "The limit is 90 %." in began.text
    assert (began.where, began.link) == ("a", "https://dts.example")
    assert START + 300 <= began.since <= START + 310
    assert ended.title == "a: disk is well again"
    assert life.states == {}


def test_a_peak_is_no_alert_and_neither_is_a_high_figure_that_was_heard_of_once() -> None:
    life = Life()
    for _ in range(20):
        assert during(life, 50, disk=99) == []
        assert during(life, 5, disk=10) == []
    life.host(disk=99)
    for _ in range(100):  # the host is silent: its last figure says nothing about now
        assert life.tick() == []


def test_an_alert_of_a_host_that_has_gone_silent_goes_on_where_it_was() -> None:
    life = Life()
    assert during(life, 90, disk=99) == ["alert.began"]
    assert [kind for _ in range(200) for kind in life.tick()] == []
    assert during(life, 90, disk=99) == []
    assert life.tick(workers=()) == []
    assert life.states == {}, "a host that is forgotten has no alerts"


def test_a_host_that_dies_and_returns_is_two_notices_and_one_that_was_stopped_is_none() -> None:
    life = Life([AlertRule("silent", "silent", 30.0)])
    life.host(name="a")
    life.host(name="b")
    stopped = [replace(state, state="ended") for state in life.snapshot.workers if state.host == "b"]
    life.tick(1, workers=tuple(state for state in life.snapshot.workers if state.host == "a") + tuple(stopped))
    kinds = [kind for _ in range(100) for kind in life.tick()]
    assert kinds == ["alert.began"]
    assert life.notices[0].title == "a is silent"
    assert "last heard of" in life.notices[0].text
    assert life.host(name="a") == ["alert.ended"]
    assert life.notices[1].title == "a is back"


def test_while_it_lasts_a_notice_is_repeated_as_the_rule_says() -> None:
    life = Life([replace(DISK, repeat=600.0)])
    kinds = during(life, 2000, disk=99)
    assert kinds == ["alert.began", "alert.again", "alert.again", "alert.again"]
    assert life.notices[1].title == "a: disk at 99 % still"


def test_two_hundred_hosts_that_die_at_once_are_one_notice() -> None:
    life = Life([AlertRule("silent", "silent", 30.0)])
    for number in range(200):
        life.host(0.0, name=f"h{number:03}")
    kinds = [kind for _ in range(20) for kind in life.tick()]
    assert kinds == ["alert.began"]
    assert life.notices[0].title == "silent: 200 at once: h000, h001, h002 …"
    assert "and 180 more" in life.notices[0].text
    assert len(life.states) == 200


def test_a_thousand_equal_errors_are_one_notice_with_a_count_and_one_of_their_end() -> None:
    life = Life([AlertRule("log", "log", lasting=10.0, repeat=300.0)])
    kinds = []
    for number in range(100):
        many = Signal(
            "log", f"cannot open file {number}", "a", level=40, rule="log", key="cannot open file #", count=10
        )
        kinds += life.tick(0.05, (many,))
    kinds += [kind for _ in range(200) for kind in life.tick()]
    assert kinds == ["alert.began", "alert.ended"]
    assert life.notices[0].title == "1000 log records, among them ERROR on a: cannot open file 0"
    assert "1000 × ERROR cannot open file 0" in life.notices[0].text
    assert life.notices[1].title == "no further log records: 1000 log records in all"


def test_errors_that_go_on_are_reported_with_what_is_new_and_not_more_often_than_the_rule_says() -> None:
    life = Life([AlertRule("log", "log", lasting=0.0, repeat=300.0)])
    one = Signal("log", "on fire", "a", level=50, rule="log", key="on fire")
    kinds = [kind for _ in range(12) for kind in life.tick(60.0, (one,))]
    assert kinds == ["alert.began", "alert.again", "alert.again"]
    assert [notice.title for notice in life.notices] == [
        "CRITICAL on a: on fire",
        *["5 log records, among them CRITICAL on a: on fire"] * 2,
    ]


def test_dead_letters_count_by_the_rules_of_their_function() -> None:
    life = Life([AlertRule("dead", "dead", lasting=0.0), AlertRule("crm", "dead", functions=("crm/*",), enabled=False)])
    assert life.tick(5, (Signal("dead", "rejected", function="crm/call", key="rejected"),)) == []
    assert life.tick(5, (Signal("dead", "rejected", function="text/upper", key="rejected"),)) == ["alert.began"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), "disk"),
        ((replace(DISK, id="g", groups=("gpu",)),), "g"),
        ((replace(DISK, id="g", groups=("gpu",)), replace(DISK, id="p", hosts=("a*",))), "p"),
        ((replace(DISK, id="p", hosts=("a*",)), replace(DISK, id="n", hosts=("a",))), "n"),
        ((replace(DISK, id="other", hosts=("b",)),), "disk"),
        ((replace(DISK, id="off", hosts=("a",), enabled=False),), None),
        ((replace(DISK, id="higher", hosts=("a",), threshold=99.5),), None),
    ],
)
def test_of_global_group_and_host_the_most_particular_rule_counts(
    more: tuple[AlertRule, ...], expected: str | None
) -> None:
    built_in = built_in_rules(DaemonsSettings())
    life = Life([DISK, *more, *built_in], snapshot=Snapshot(START, vhosts={"a": VirtualHost("a", groups=("gpu",))}))
    during(life, 120, disk=99)
    assert [notice.data["rule"] for notice in life.notices] == ([expected] if expected else [])


def test_two_rules_of_one_rank_both_count_each_with_its_recipients() -> None:
    life = Life([replace(DISK, notify=("a@x",)), replace(DISK, id="critical", threshold=95.0, notify=("b@x",))])
    during(life, 120, disk=92)
    assert life.recipients == [("a@x",)]
    during(life, 120, disk=97)
    assert life.recipients == [("a@x",), ("b@x",)]


@pytest.mark.parametrize(
    "silence",
    [
        Silence("s", START, START + 1000),
        Silence("s", START, START + 1000, hosts=("a",)),
        Silence("s", START, START + 1000, groups=("default",)),
        Silence("s", START, START + 1000, rules=("disk",)),
        Silence("s", START - 86400, START - 85400, every=86400.0),
    ],
)
def test_what_begins_in_a_silence_and_goes_on_is_notified_when_it_ends(silence: Silence) -> None:
    life = Life(silences=[silence])
    assert during(life, 900, disk=99) == []
    assert [state.silenced for state in life.states.values()] == [True]
    assert during(life, 200, disk=99) == ["alert.began"]


def test_what_begins_and_ends_in_a_silence_notifies_nobody() -> None:
    life = Life(silences=[Silence("s", START, START + 1000)])
    assert during(life, 300, disk=99) + during(life, 1000, disk=10) == []


def test_a_silence_of_others_silences_nothing_here() -> None:
    life = Life(silences=[Silence("s", START, START + 1000, hosts=("b",), functions=("a",), rules=("log",))])
    assert during(life, 90, disk=99) == ["alert.began"]


def test_a_log_record_from_a_silenced_host_is_not_counted() -> None:
    life = Life([AlertRule("log", "log", lasting=0.0)], [Silence("s", START, START + 1000, hosts=("a",))])
    assert life.tick(5, (Signal("log", "x", "a", rule="log", key="x"),)) == []
    assert life.tick(5, (Signal("log", "x", "b", rule="log", key="x"),)) == ["alert.began"]


def test_queues_failures_targets_and_the_broker() -> None:
    rules = [
        AlertRule("q", "queue", 100.0, lasting=0.0),
        AlertRule("age", "queue_age", 60.0, lasting=0.0),
        AlertRule("f", "failures", 50.0, lasting=0.0),
        AlertRule("cert", "certificate", 14.0, target="x:443"),
        AlertRule("space", "space", 90.0, lasting=0.0, target="/srv"),
        AlertRule("broker", "broker", 60.0),
    ]
    life = Life(rules)
    bad = {
        "queues": {"default": 500},
        "ages": {"default": 90.0},
        "traffic": {"a/b": Traffic(20, 15), "a/few": Traffic(3, 3)},
        "targets": {("certificate", "x:443"): 3.0, ("space", "/srv"): 95.0},
        "broker_away": 61.0,
    }
    assert life.tick(5, **bad) == ["alert.began"] * 6
    assert {notice.title for notice in life.notices} == {
        "route default: jobs wait at 500 messages",
        "route default: jobs wait at 90 s",
        "a/b: attempts fail at 75 %",
        "the certificate of x:443 runs out",
        "/srv runs full",
        "the broker is away",
    }
    good = {"queues": {}, "ages": {}, "traffic": {}, "targets": {}, "broker_away": 0.0}
    assert life.tick(5, **good) == ["alert.ended"] * 6
    assert life.states == {}


def test_a_rule_that_is_deleted_takes_its_alerts_along_in_silence() -> None:
    life = Life()
    during(life, 90, disk=99)
    life.rules = []
    assert life.host(disk=99) == []
    assert life.states == {}


def test_a_notice_has_the_same_id_whoever_composes_it_and_another_one_in_each_batch() -> None:
    life = Life()
    during(life, 90, disk=99)
    during(life, 90, disk=10)
    assert len({notice.id for notice in life.notices}) == 2
    owing = AlertState(
        rule="r", kind="disk", subject="a", phase=Phase.FIRING, since=1.0, began="x", ended="y", owed="began", batch="b"
    )
    [(one, _)], [(other, _)] = compose([owing], ""), compose([owing, msgspec.structs.replace(owing, subject="b")], "")
    assert one.id == other.id == "b.began.r"
    assert set(get_args(Event)) == {"began", "again", "ended"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("took 17 ms at 0x7f3a", "took 2 ms at 0x1", True),
        ("run 01jd3v8k2m failed\nTraceback 1", "run 01jd3v8k2m failed\nother", True),
        ("cannot open a", "cannot open b", False),
    ],
)
def test_equal_but_for_numbers_is_equal(one: str, other: str, same: bool) -> None:
    assert (key_of(one) == key_of(other)) is same


def test_a_log_record_counts_by_the_most_particular_rules_that_it_fits() -> None:
    rules = LogRules.__new__(LogRules)
    rules._groups, rules._lowest = {}, 30
    patterns = [
        (AlertRule("oom", "log", pattern="Out of memory", level=30), re.compile("Out of memory")),
        (AlertRule("here", "log", hosts=("a",)), None),
        (built_in_rules(DaemonsSettings())[-1], None),
    ]
    rules._rules = list(patterns)

    def matching(host: str, level: int, message: str) -> list[str]:
        return rules.matching(LogEntry("1", host, "s", 0.0, level, "l", message))

    assert matching("b", 40, "no") == ["default.log"]
    assert matching("b", 30, "Out of memory: killed") == ["oom"]
    assert matching("a", 40, "no") == ["here"]
    assert matching("a", 30, "no") == matching("a", 20, "Out of memory") == []


def test_the_shell_knows_every_kind() -> None:
    assert set(COMMAND_KINDS) == set(KINDS)


def test_every_built_in_rule_is_of_a_kind() -> None:
    assert {rule.kind for rule in built_in_rules(DaemonsSettings())} <= set(KINDS)


def test_a_certificate_that_is_not_looked_at_any_more_is_well_with_a_figure_that_json_can_write() -> None:
    life = Life([AlertRule("tls", "certificate", 14.0, lasting=60.0, target="a:1")])
    assert life.tick(targets={("certificate", "a:1"): 3.0}) == []
    assert life.tick(60.0, targets={("certificate", "a:1"): 3.0}) == ["alert.began"]
    assert life.tick(targets={}) == []
    [state] = life.states.values()
    assert state.calm == life.now
    assert msgspec.json.decode(msgspec.json.encode(state), type=AlertState) == state
    assert life.tick(60.0) == ["alert.ended"]
