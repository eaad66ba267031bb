"""Checks the log records of a child before its worker sends them on: they may only be about jobs that it has.

Functions share the process that logs for them, and may put anything into a record, or send one of their own make. So
the worker, which is another process, checks it: the id of a job that the child does not have is removed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

from dts.errors import DtsError, WireError
from dts.model import job_id
from dts.wire import codec, sanitize
from dts.wire.dts_pb2 import JobBatch, LogRecord
from dts.worker.pool.child_process import Assignment

MAX_RECORD = 256 * 1024
"""Bytes of a record."""


class RecordCheck:
    """Checks the records of the children of one worker, `source`."""

    def __init__(self, source: str) -> None:
        self._host = socket.gethostname()
        self._source = source

    def checked(self, body: bytes, given: Iterable[Assignment]) -> bytes:
        """An encoded record as it may be sent on; `given` are the assignments of its child.

        Raises:
            WireError: it is no record, or too large for one.
        """
        if len(body) > MAX_RECORD:
            raise WireError(f"a log record is over the limit of {MAX_RECORD} bytes")
        record = codec.decode(LogRecord, body)
        record.host, record.source = self._host, self._source
        record.time = sanitize.moment(record.time, time.time())
        record.level = sanitize.level(record.level)
        record.logger = sanitize.name(record.logger)
        if record.job and not any(record.job in _jobs_of(each) for each in given):
            record.job = ""
        return record.SerializeToString()


def _jobs_of(assignment: Assignment) -> frozenset[str]:
    """The ids of an assignment's jobs; none where their numbers are not known."""
    if assignment.ids is None:
        assignment.ids = _ids(assignment)
    return assignment.ids


def _ids(assignment: Assignment) -> frozenset[str]:
    if assignment.number is None:
        return frozenset()
    try:
        batch = codec.decode(JobBatch, assignment.body, assignment.content_encoding)
    except DtsError:
        return frozenset()
    return frozenset(job_id(batch.run, assignment.number + job.index) for job in batch.jobs)
