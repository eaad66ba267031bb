"""What is a message's own fault, as opposed to a fault of the services or of DTS."""

from __future__ import annotations

import msgspec

from dts.errors import DuplicateKey, InvalidInput, NotStorable, WireError

CONTENT_FAULTS = (
    WireError,
    InvalidInput,
    NotStorable,
    DuplicateKey,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    msgspec.MsgspecError,
)
"""What is raised over what is in a message, whenever it is tried: only for these is one given up. Anything else, as a
lack of memory or a bug, is no fault of the messages: it ends the daemon, and they stay on their queue."""
