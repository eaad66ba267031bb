"""Keeps a worker running on a host that has no systemd: `python -m dts.worker.command.supervisor COMMAND FOLDER`.

    start    have a supervisor run in the background, which starts the worker, and again when it has ended
    stop     have the worker finish what it is at and end, and the supervisor with it
    status   say whether they run
    run      be the supervisor

A lock on `run/supervisor.lock`, which holds the supervisor's process id, says that there is one: the kernel gives it
up however the process ends. `run/worker.pid` has the worker's. What the worker writes goes to `log/worker.log`, which
is moved to `worker.log.1` when it is large. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MAX_LOG = 10 * 1024 * 1024
"""Bytes of a log file, before a new one is begun; one old one is kept."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a worker that has ended by itself is started again; doubled each time it ends soon."""

_GOOD_LIFE = 60.0
"""Seconds after which a worker that ends counts as one that could be started."""

_LOOK_EVERY = 0.05
_CHUNK = 65_536


class Place:
    """The files of a supervised worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "run/supervisor.lock"
        self.worker = folder / "run/worker.pid"
        self.log = folder / "log/worker.log"
        self.python = folder / "current/bin/python"

    def supervisor(self) -> int:
        """The process id of the supervisor that runs now; 0 if none does."""
        try:
            with self.lock.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read() or b"0")
        except FileNotFoundError:
            pass
        return 0

    def worker_pid(self) -> int:
        """The process id of the worker, as the supervisor has noted it; 0 if it notes none."""
        try:
            return int(self.worker.read_text() or "0")
        except (FileNotFoundError, ValueError):
            return 0


def status(place: Place) -> dict[str, object]:
    """Whether the supervisor runs, and which processes there are."""
    supervisor = place.supervisor()
    return {"running": bool(supervisor), "supervisor": supervisor, "pid": place.worker_pid() if supervisor else 0}


def start(place: Place) -> None:
    """Start a supervisor that outlives this process, unless one runs; waits until it holds the lock."""
    if place.supervisor():
        return
    for folder in (place.lock.parent, place.log.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with place.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dts.worker.command.supervisor", "run", str(place.folder)],
            cwd=place.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while not place.supervisor():
        if process.poll() is not None:
            raise SystemExit(f"the supervisor ended with status {process.returncode}: see {place.log}")
        time.sleep(_LOOK_EVERY)


def stop(place: Place) -> None:
    """Ask the supervisor to end, and wait until it has; the worker's drain_timeout bounds that."""
    if not (pid := place.supervisor()):
        return
    os.kill(pid, signal.SIGTERM)
    with place.lock.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # it is free when the supervisor has ended


class Supervisor:
    """Runs one worker until it is asked to end."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._ending = False
        self._lost = 0
        self._process: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only wakes the loop

    def _asked_to_end(self) -> bool:
        """Whether a signal has asked this process to end; it may come at any time."""
        return self._ending

    def _end(self, *_: object) -> None:
        self._ending = True
        if self._process is not None:
            self._process.terminate()

    def run(self) -> None:
        """Start the worker, and again after a pause whenever it ends by itself."""
        pause = _FIRST_PAUSE
        while not self._asked_to_end():
            begun = time.monotonic()
            status = self._run_worker()
            if self._asked_to_end():
                return
            pause = _FIRST_PAUSE if time.monotonic() - begun >= _GOOD_LIFE else pause
            self._note(f"the worker ended with status {status}: it is started again in {pause:.0f} s")
            self._wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _run_worker(self) -> int:
        self._process = process = subprocess.Popen(
            [self._place.python, "-m", "dts.worker", "-c", "etc/worker.toml"],
            cwd=self._place.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        if self._asked_to_end():  # asked to in between
            process.terminate()
        self._note_worker(process.pid)
        output = process.stdout.fileno()
        while process.poll() is None:
            ready, _, _ = select.select([output, self._wake], [], [])
            self._clear_wake()
            if output in ready and not self._copy(output):
                process.wait()
        while self._readable(output) and self._copy(output):
            pass
        process.stdout.close()
        self._process = None
        self._note_worker(0)
        return process.returncode

    def _copy(self, output: int) -> bool:
        """Move some output to the log; False at its end."""
        data = os.read(output, _CHUNK)
        self._write(data)
        return bool(data)

    def _write(self, data: bytes) -> None:
        """Add to the log. On a full disk the worker goes on without one; how much is missing is logged later."""
        log = self._place.log
        missing = b"supervisor: %d bytes could not be written here\n" % self._lost if self._lost else b""
        try:
            with log.open("ab") as file:
                file.write(missing + data)
                size = file.tell()
            self._lost = 0
            if size > MAX_LOG:
                log.replace(log.with_suffix(".log.1"))
        except OSError:
            self._lost += len(data)

    def _note_worker(self, pid: int) -> None:
        """Note the worker's process id, if the disk has room for it."""
        try:
            self._place.worker.write_text(str(pid))
        except OSError as error:
            self._note(f"the worker's process id {pid} cannot be noted in {self._place.worker}: {error}")

    def _note(self, text: str) -> None:
        self._write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {text}\n".encode())

    def _wait(self, seconds: float) -> None:
        """Wait, but no longer than until a signal says to end."""
        deadline = time.monotonic() + seconds
        while not self._asked_to_end() and (left := deadline - time.monotonic()) > 0:
            select.select([self._wake], [], [], left)
            self._clear_wake()

    def _clear_wake(self) -> None:
        while self._readable(self._wake):
            os.read(self._wake, _CHUNK)

    @staticmethod
    def _readable(descriptor: int) -> bool:
        return bool(select.select([descriptor], [], [], 0)[0])


def run(place: Place) -> None:
    """Be the supervisor, if there is no other."""
    with place.lock.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("another supervisor runs") from None
        supervisor = Supervisor(place)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        supervisor.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command."""
    parser = argparse.ArgumentParser(prog="python -m dts.worker.command.supervisor", description=__doc__)
    parser.add_argument("command", choices=("start", "stop", "status", "run"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    place = Place(options.folder.absolute())
    if options.command == "status":
        sys.stdout.write(json.dumps(status(place)) + "\n")
    else:
        {"start": start, "stop": stop, "run": run}[options.command](place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
