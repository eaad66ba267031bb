"""What holds for every test."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Iterator

import pytest


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
