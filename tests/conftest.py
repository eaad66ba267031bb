"""What holds for every test."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Iterator

import pytest

TEARDOWN = 120.0
"""Seconds that the fixtures of a test have to end after it failed."""


SERVICES = frozenset({"mongodb", "amqp", "cluster", "mongo", "mongo_server", "rabbit", "rabbitmq"})
"""Names of fixtures, and of parameters of fixtures, that start a MongoDB or a RabbitMQ."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, so that `-m "not services"` leaves what runs on any machine at once."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if callspec := getattr(item, "callspec", None):
            names |= {value for value in callspec.params.values() if isinstance(value, str)}
        if names & SERVICES or item.path.name.startswith(("test_mongodb_", "test_rabbitmq_")):
            item.add_marker("services")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI, where `scripts/test` has installed every service, a skipped test is a failed one.

    A test that ran into its time limit reports what each task of its loop was waiting for.
    """
    report: pytest.TestReport = yield  # type: ignore[misc,assignment]
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, in CI: {report.longrepr}"
    if report.failed and call.excinfo is not None and _timed_out(call.excinfo):
        report.sections.append(("tasks when the time was over", _tasks()))
    return report  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """A test's time limit is over when it fails: what made it hang may hang its fixtures, too."""
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        return (yield)
    before = signal.signal(signal.SIGALRM, _teardown_timed_out)
    signal.setitimer(signal.ITIMER_REAL, TEARDOWN)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _teardown_timed_out(*_: object) -> None:
    pytest.fail(f"Timeout: the fixtures of a failed test did not end in {TEARDOWN:.0f} s")


def _timed_out(error: pytest.ExceptionInfo[BaseException]) -> bool:
    return isinstance(error.value, pytest.fail.Exception) and str(error.value).startswith("Timeout")


def _tasks() -> str:
    try:
        loop = asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        return "no loop"
    text = io.StringIO()
    for task in asyncio.all_tasks(loop):
        task.print_stack(file=text)
    return text.getvalue()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is named at once: a run that is cut off has still told of it."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        sys.stderr.write(f"\n{report.nodeid} failed in its {report.when}\n")
