"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI, where `scripts/test` has installed every service, a skipped test is a failed one."""
    report: pytest.TestReport = yield  # type: ignore[misc,assignment]
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, in CI: {report.longrepr}"
    return report  # type: ignore[return-value]
