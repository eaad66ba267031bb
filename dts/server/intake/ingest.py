"""From a request's body to a block: every job is validated here once, and encoded once for the whole way.

Arguments stay as the JSON that the caller wrote; they are parsed to make sure that a worker can parse them, and
passed on as raw bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dts.errors import InvalidInput, TooLarge
from dts.model import Block, Run, block_id
from dts.server.record.lines import check_lines
from dts.wire import codec, dts_pb2


class JobLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a block in NDJSON."""

    args: msgspec.Raw = msgspec.Raw(b"")
    kwargs: msgspec.Raw = msgspec.Raw(b"")


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one job as raw JSON, validated; empty stands for [] and {}."""

    args: bytes
    kwargs: bytes


_line = msgspec.json.Decoder(JobLine)
_array: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list)
_object: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict)


def check_arguments(args: bytes, kwargs: bytes, place: str) -> None:
    """Make sure that raw arguments are a JSON array and a JSON object.

    Raises:
        InvalidInput: naming the place (such as "line 3") and what is wrong.
    """
    try:
        if args:
            _array.decode(args)
        if kwargs:
            _object.decode(kwargs)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        which = "kwargs must be a JSON object" if _is_valid(_array, args) else "args must be a JSON array"
        raise InvalidInput(f"{place}: {which}: {describe_json_error(error)}") from error


def describe_json_error(error: Exception) -> str:
    """What is wrong with a JSON text, in words."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)


def batch_from_ndjson(body: bytes, *, max_jobs: int) -> dts_pb2.JobBatch:
    """A JobBatch from lines of `{"args": […], "kwargs": {…}}`, both optional. Line i is job i: none may be blank.

    Raises:
        InvalidInput: naming the line and what is wrong with it.
        TooLarge: there are more than `max_jobs` lines.
    """
    _check_count(body.count(b"\n") + (not body.endswith(b"\n")) if body.strip() else 0, max_jobs)
    lines = body.removesuffix(b"\n").split(b"\n")
    return batch_from_arguments([_arguments(line, f"line {number}") for number, line in enumerate(lines, 1)])


def _arguments(line: bytes, place: str) -> Arguments:
    """The arguments in a line of NDJSON, checked."""
    try:
        decoded = _line.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        blank = not line.strip()
        reason = "it is blank" if blank else describe_json_error(error)
        raise InvalidInput(f"{place}: each line must be one job as a JSON object: {reason}") from error
    arguments = Arguments(bytes(decoded.args), bytes(decoded.kwargs))
    check_arguments(arguments.args, arguments.kwargs, place)
    return arguments


def batch_from_arguments(arguments: Sequence[Arguments]) -> dts_pb2.JobBatch:
    """A JobBatch with one job for each of the arguments, with indices from 0."""
    batch = dts_pb2.JobBatch()
    add = batch.jobs.add
    for index, each in enumerate(arguments):
        add(index=index, args=each.args, kwargs=each.kwargs)
    return batch


def batch_from_protobuf(data: bytes, *, max_jobs: int) -> dts_pb2.JobBatch:
    """Decode and check a JobBatch that a client encoded. `data` is decompressed already.

    Raises:
        InvalidInput: naming the job and what is wrong with it.
        TooLarge: there are more than `max_jobs` jobs.
        WireError: it is not a JobBatch.
    """
    batch = codec.decode(dts_pb2.JobBatch, data, max_size=len(data))
    if batch.block or batch.run or batch.function or batch.lease or batch.HasField("options"):
        raise InvalidInput(
            "block, run, function, lease and options of a JobBatch are the server's to fill in: leave them empty; "
            "what a run asks of attempts is said when it is opened"
        )
    _check_count(len(batch.jobs), max_jobs)
    check_lines(batch)
    for index, job in enumerate(batch.jobs):
        if job.index != index or job.attempt or job.kills or job.fence or job.HasField("options"):
            raise InvalidInput(
                f"job {index}: its index must be {index}, and attempt, kills, fence and options must not be set"
            )
        check_arguments(job.args, job.kwargs, f"job {index}")
    return batch


def new_block(run: Run, number: int, function: str, batch: dts_pb2.JobBatch, *, version: str = "") -> Block:
    """The block to store for a validated batch.

    `version` is written into the block, and into `batch`, beside what was asked for: a repeat of the same jobs is the
    same block, whatever was deployed since.
    """
    data = batch.SerializeToString()
    extra = dts_pb2.JobBatch()
    if version:
        batch.options.version = extra.options.version = version
    body, content_encoding = codec.compress(data + extra.SerializeToString())  # protobuf merges what is concatenated
    return Block(
        id=block_id(run.id, number),
        run=run.id,
        number=number,
        first=number * run.block_size,
        user=run.user,
        function=function,
        count=len(batch.jobs),
        body=body,
        content_encoding=content_encoding,
        digest=hashlib.blake2b(function.encode() + b"\0" + data, digest_size=16).digest(),
        created=time.time(),
        single=run.single,
        priority=run.priority,
        weight=run.weight,
    )


def _check_count(count: int, max_jobs: int) -> None:
    if count > max_jobs:
        raise TooLarge(f"{count} jobs are over the limit of {max_jobs} in one request")
    if count == 0:
        raise InvalidInput("there is no job in the body: send at least one")


def _is_valid(decoder: msgspec.json.Decoder[Any], raw: bytes) -> bool:
    try:
        if raw:
            decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


__all__ = [
    "Arguments",
    "batch_from_arguments",
    "batch_from_ndjson",
    "batch_from_protobuf",
    "check_arguments",
    "describe_json_error",
    "new_block",
]
