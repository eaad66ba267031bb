"""A timeout for functions and jobs that set none."""

from __future__ import annotations

import pytest

from dts.config import ServerSettings
from dts.model import Function, Run, new_id
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.publish.slices import block_messages
from dts.wire import codec, dts_pb2


@pytest.mark.parametrize(
    ("default", "of_function", "of_job", "timeout"),
    [
        (None, None, None, 0.0),
        (60.0, None, None, 60.0),
        (60.0, 600.0, None, 600.0),
        (60.0, None, 90.0, 90.0),
        (60.0, 600.0, 90.0, 90.0),
    ],
)
def test_it_is_for_those_that_have_none(
    default: float | None, of_function: float | None, of_job: float | None, timeout: float
) -> None:
    run = Run(new_id(), "ann", "text/upper", 2048)
    batch = batch_from_arguments([Arguments(b"[1]", b"")] * 3)
    if of_job is not None:
        batch.options.timeout = of_job
    block, function = new_block(run, 0, run.function, batch), Function("text/upper", timeout=of_function)
    post = block_messages(block, batch, function, ServerSettings(default_timeout=default))
    for message in post.messages:
        sent = codec.decode(dts_pb2.JobBatch, message.body, message.content_encoding)
        assert sent.options.timeout == timeout
