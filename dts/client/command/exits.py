"""The exit statuses of `dts-client`, those of GNU parallel."""

from __future__ import annotations

from dts.client.client import Summary
from dts.runtime.process import Shutdown

MOST_COUNTED = 100
MORE_FAILED = 101
READER_GONE = 141  # as of a command that SIGPIPE has ended
COULD_NOT_RUN = 255

HELP = """\
exit status:
  0        every line succeeded
  1-100    every line has its row, and so many failed; 101: more than 100
  129 130 143  ended by HUP, INT, TERM: the run is left open, --resume goes on with it
  141      standard output was closed by its reader (| head)
  255      it could not be done: stderr says why, and how to go on\
"""


def of_summary(summary: Summary) -> int:
    """The exit status of a run of which every line has its row."""
    return of_failures(summary.failed)


def of_failures(failed: int) -> int:
    """The exit status when so many lines failed."""
    return failed if failed <= MOST_COUNTED else MORE_FAILED


def of_signal(shutdown: Shutdown) -> int:
    """The exit status of a command that a signal has ended."""
    return 128 + shutdown.signal
