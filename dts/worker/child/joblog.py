"""What functions log: to the child's output, and as records with the job's id to the logs of the whole system.

Functions share the logging of their process, and may set it up as they like. So the records of `context.logger` are
taken at that logger itself, and what would silence it for the next function is undone between two messages. What a
record says of its time, level and name is made finite; whose job it is, is not up to it.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable

from dts.wire import sanitize
from dts.wire.dts_pb2 import LogRecord
from dts.worker.attempt.failure import clip, record_text
from dts.worker.child import current_job, secrets
from dts.worker.link.frames import Frame, Kind
from dts.worker.link.options import ChildOptions

MAX_RECORDS = 100
"""Records below the level ERROR that a child sends in a second, and as many at or above it; of the others, only how
many they were."""
MAX_OF_JOB = 50
"""Of those at or above ERROR, how many of one job."""
MAX_TEXT = 8 * 1024
"""Characters of a record."""
_TELL_AFTER = 1.0  # seconds from the first dropped record until the number of dropped records is logged

_ABOUT = "_dts_about_job"  # the attribute of a record of the worker's own that has the id of the job it is about

_TAKEN = "_dts_taken"  # the attribute of a record that was taken at `context.logger`, whatever name it bears

logger = logging.getLogger("dts.worker.child.main")
_root = logging.getLogger()


class JobLog(logging.Handler):
    """Sends records at or above the levels of the settings."""

    def __init__(self, options: ChildOptions, send: Callable[[Frame], None]) -> None:
        super().__init__()
        levels = logging.getLevelNamesMapping()
        self._level = levels.get(options.settings.log_level.upper(), logging.WARNING)
        self._job_level = levels.get(options.settings.job_log_level.upper(), logging.INFO)
        self._host, self._source, self._send = socket.gethostname(), options.name, send
        self._of_jobs = _JobHandler(self)
        self._budget = _Budget()
        self._dropped = 0

    def install(self) -> None:
        """Take what is logged in this process from here on."""
        output = logging.StreamHandler(sys.stderr)
        output.setFormatter(logging.Formatter("%(levelname)-7s %(name)s: %(message)s"))
        logging.basicConfig(handlers=[output, self], force=True)
        self.restore()

    def restore(self) -> None:
        """See that what is logged still comes here, whatever a function has set up."""
        jobs = current_job.logger
        if self._of_jobs not in jobs.handlers:
            jobs.addHandler(self._of_jobs)
        if self not in _root.handlers:
            _root.addHandler(self)
        if _root.level > logging.WARNING:
            _root.setLevel(logging.WARNING)
        if jobs.level != self._job_level:
            jobs.setLevel(self._job_level)
        if logging.root.manager.disable:
            logging.disable(logging.NOTSET)
        jobs.disabled = logger.disabled = False
        jobs.propagate = True
        if jobs.filters:
            jobs.filters.clear()

    def warn(self, text: str, job: str) -> None:
        """Log a warning of the worker's own about a job."""
        logger.warning("%s", text, extra={_ABOUT: job})

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record of any logger but `context.logger`."""
        if sanitize.level(record.levelno) >= self._level and not _is_of_jobs(record):
            self.take(record)

    def take(self, record: logging.LogRecord) -> None:
        """Send a record, unless there are too many."""
        try:
            about = getattr(record, _ABOUT, None)
            job = current_job.current_id() if about is None else sanitize.job(about)
            if self._budget.spend(sanitize.level(record.levelno), job):
                self._send_record(record, job)
            else:
                self._drop()
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not fail its job
            self.handleError(record)

    def _send_record(self, record: logging.LogRecord, job: str) -> None:
        told = LogRecord(
            host=self._host,
            source=self._source,
            time=sanitize.moment(record.created, time.time()),
            level=sanitize.level(record.levelno),
            logger=sanitize.name(record.name),
            message=clip(secrets.mask(record_text(record)), MAX_TEXT),
            job=job,
        )
        self._send(Frame(Kind.LOG, 0, told.SerializeToString()))

    def _drop(self) -> None:
        self._dropped += 1
        if self._dropped == 1:
            # A thread of its own, since nothing else may ever be logged again.
            teller = threading.Timer(_TELL_AFTER, self.tell_dropped)
            teller.daemon = True
            teller.start()

    def tell_dropped(self) -> None:
        """Any thread: send how many records were dropped, if there were any."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            text = "%d records were dropped: a child sends %d a second, and as many errors"
            told = logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (dropped, MAX_RECORDS), None)
            try:
                self._send_record(told, "")
            except OSError:
                return  # the worker is gone, and the log with it


class _JobHandler(logging.Handler):
    """Takes the records of `context.logger`."""

    def __init__(self, joblog: JobLog) -> None:
        super().__init__()
        self._joblog = joblog

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; its logger has looked at the level."""
        record.__dict__[_TAKEN] = True
        self._joblog.take(record)


class _Budget:
    """How many records may be sent in this second: a flood takes no room from errors, nor one job all of that."""

    def __init__(self) -> None:
        self._second = self._lesser = self._errors = 0
        self._of_jobs: dict[str, int] = {}

    def spend(self, level: int, job: str) -> bool:
        """Whether one more record may be sent."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lesser, self._errors = second, 0, 0
            self._of_jobs.clear()
        if level < logging.ERROR:
            self._lesser += 1
            return self._lesser <= MAX_RECORDS
        of_job = self._of_jobs.get(job, 0)
        if of_job >= MAX_OF_JOB or self._errors >= MAX_RECORDS:
            return False
        self._of_jobs[job] = of_job + 1
        self._errors += 1
        return True


def _is_of_jobs(record: logging.LogRecord) -> bool:
    name = sanitize.name(record.name)
    return name == "dts.job" or name.startswith("dts.job.") or _TAKEN in record.__dict__
