"""What the worker and the template send to each other, besides the worker's requests for children."""

from __future__ import annotations

import struct

REPORT = struct.Struct("!Bqi")
"""Template to worker: a code, a process id, and how that process ended: its exit status, or minus a signal."""
READY, STARTED, FAILED, ENDED, ALIVE = range(5)
"""The codes: the template is up; a child was forked; it could not be (the errno in place of the status); a child has
ended; the answer to a QUESTION."""

QUESTION = b"?"
"""Worker to template: answer with ALIVE."""
