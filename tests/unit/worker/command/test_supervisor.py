"""A supervisor on a full disk."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dts.worker.command.supervisor import Place, Supervisor


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor with folders and no worker yet."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}
    place = Place(tmp_path)
    for folder in (place.lock.parent, place.log.parent, place.python.parent):
        folder.mkdir(parents=True)
    descriptor = signal.set_wakeup_fd(-1)
    yield Supervisor(place)
    signal.set_wakeup_fd(descriptor)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_it_goes_on_while_nothing_can_be_written_and_says_later_what_is_missing(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    place.python.write_text("#!/bin/sh\necho hello\nexit 7\n")
    place.python.chmod(0o755)
    for path in (place.log, place.worker):
        path.symlink_to("/dev/full")  # each write ends with ENOSPC
    assert supervisor._run_worker() == 7
    place.log.unlink()
    place.worker.unlink()
    assert supervisor._run_worker() == 7
    missing, said = place.log.read_text().splitlines()
    assert missing.startswith("supervisor: ")
    assert missing.endswith(" bytes could not be written here")
    assert (said, place.worker.read_text()) == ("hello", "0")
