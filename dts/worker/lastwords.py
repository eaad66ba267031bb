"""What a worker remembers of jobs at work, to put it on record when their process cannot do so any more."""

from __future__ import annotations

import logging

from dts.errors import DtsError
from dts.wire import codec
from dts.wire.dts_pb2 import ResultBatch
from dts.worker.link.frames import Frame

logger = logging.getLogger(__name__)


def note_told(partials: dict[int, bytes], frame: Frame) -> None:
    """Keep the last values that jobs have told in a RUNNING frame, a JSON array by the job's index in its block."""
    try:
        batch = codec.decode(ResultBatch, frame.body, frame.content_encoding)
    except DtsError as error:
        logger.warning("what a child tells of jobs at work cannot be read: %s", error.message)
        return
    partials.update((each.index, each.partials) for each in batch.progress if each.partials)
