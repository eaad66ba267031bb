"""What functions log: to the child's output, and as records with the job's id to the logs of the whole system."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dts.wire.dts_pb2 import LogRecord
from dts.worker import context
from dts.worker.failure import clip
from dts.worker.frames import Frame, Kind

if TYPE_CHECKING:
    from dts.worker.child import ChildOptions

MAX_RECORDS = 100
"""Records that a child sends in a second; of the others, only how many they were."""
MAX_TEXT = 8 * 1024
"""Characters of a record."""

logger = logging.getLogger("dts.worker.child")


class JobLog(logging.Handler):
    """Sends records at or above the levels of the settings."""

    def __init__(self, options: ChildOptions, send: Callable[[Frame], None]) -> None:
        super().__init__()
        levels = logging.getLevelNamesMapping()
        self._level = levels.get(options.settings.log_level.upper(), logging.WARNING)
        self._job_level = levels.get(options.settings.job_log_level.upper(), logging.INFO)
        self._host, self._source, self._send = socket.gethostname(), options.name, send
        self._second, self._sent, self._dropped = 0, 0, 0

    def install(self) -> None:
        """Take what is logged in this process from here on."""
        output = logging.StreamHandler(sys.stderr)
        output.setFormatter(logging.Formatter("%(levelname)-7s %(name)s: %(message)s"))
        logging.basicConfig(handlers=[output, self], force=True)
        context.logger.setLevel(self._job_level)

    def warn(self, text: str, job: str) -> None:
        """Log a warning of the worker's own about a job."""
        logger.warning("%s", text, extra={"job": job})

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, unless there are too many."""
        if record.levelno < (self._job_level if record.name.startswith("dts.job") else self._level):
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._sent = second, 0
        self._sent += 1
        if self._sent > MAX_RECORDS:
            self._dropped += 1
            return
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            if self._dropped:
                text += f"\n({self._dropped} records before this one were dropped)"
                self._dropped = 0
            job = getattr(record, "job", None)
            told = LogRecord(
                host=self._host,
                source=self._source,
                time=record.created,
                level=record.levelno,
                logger=record.name,
                message=clip(text, MAX_TEXT),
                job=context.current_job() if job is None else str(job),
            )
            self._send(Frame(Kind.LOG, 0, told.SerializeToString()))
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not fail its job
            self.handleError(record)
