"""Lines of JSON."""

from __future__ import annotations

import json
import logging
import sys

from dts.runtime.logs import REQUEST, USER, JsonFormatter


def line(message: str, *args: object, **extra: object) -> str:
    record = logging.LogRecord("dts.x", logging.WARNING, "f", 1, message, args, extra.pop("exc_info", None))  # type: ignore[arg-type]
    vars(record).update(extra)
    return JsonFormatter().format(record)


def test_a_record_is_one_object_with_what_is_known_of_it() -> None:
    found = json.loads(line("%d jobs", 3))
    assert found["message"] == "3 jobs"
    assert (found["level"], found["logger"]) == ("WARNING", "dts.x")
    assert found["time"].endswith("Z")
    assert found.keys() == {"time", "level", "host", "process", "logger", "message"}


def test_requests_users_runs_and_jobs_are_named() -> None:
    tokens = REQUEST.set("r1"), USER.set("alice")
    try:
        found = json.loads(line("x", run="run1", job="run1-3"))
    finally:
        REQUEST.reset(tokens[0])
        USER.reset(tokens[1])
    assert [found[name] for name in ("request", "user", "run", "job")] == ["r1", "alice", "run1", "run1-3"]


def test_nothing_takes_a_second_line() -> None:
    try:
        raise ValueError("a\nb\u2028c\x1b[31m")
    except ValueError:
        text = line("one\ntwo\u2028three", exc_info=sys.exc_info())
    assert len(text.splitlines()) == 1
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["traceback"].startswith("Traceback")
