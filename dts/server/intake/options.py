"""What a caller, a function's record and the server say of how attempts are run, and how these go together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from dts.errors import InvalidInput
from dts.model import Function
from dts.wire import dts_pb2

Seconds = Annotated[float, Meta(gt=0, le=10 * 365 * 86400)]
Time = Annotated[float, Meta(ge=0, le=32503680000)]  # until the year 3000

_FIELDS = ("soft_timeout", "timeout", "max_attempts", "memory_limit", "concurrency", "deadline")


class AttemptParams(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a job or a run may ask for itself; what is not given is as the function's record says.

    Durations are in seconds, times in seconds since the epoch, sizes in bytes.
    """

    soft_timeout: Seconds | None = None
    timeout: Seconds | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    retry_on: Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=100)] | None = None
    memory_limit: Annotated[int, Meta(ge=1024 * 1024, le=2**62)] | None = None
    concurrency: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    not_before: Time | None = None
    deadline: Time | None = None


def own_options(params: AttemptParams, *, now: float, place: str = "params") -> dts_pb2.Options | None:
    """What `params` ask of attempts, as it travels; None if they ask for nothing.

    Raises:
        InvalidInput: two of them do not go together, or the deadline is over.
    """
    if params.soft_timeout is not None and params.timeout is not None and params.soft_timeout >= params.timeout:
        raise InvalidInput(f"{place}: soft_timeout must be less than timeout, after which the job is stopped by force")
    if params.deadline is not None:
        if params.deadline <= now:
            raise InvalidInput(f"{place}: deadline is over already: give a time in seconds since the epoch, in future")
        if params.not_before is not None and params.not_before >= params.deadline:
            raise InvalidInput(f"{place}: not_before must be earlier than deadline, or the job can never start")
    given = {name: value for name in _FIELDS if (value := getattr(params, name)) is not None}
    if params.retry_on is not None:
        given["retry_on"] = params.retry_on
    return dts_pb2.Options(**given) if given else None


def merged_options(function: Function | None, own: dts_pb2.Options) -> dts_pb2.Options:
    """The options of a message: what the block asks for over what the function's record says."""
    options = dts_pb2.Options()
    if function is not None:
        for name in _FIELDS:
            if (value := getattr(function, name, None)) is not None:
                setattr(options, name, value)
        options.retry_on.extend(function.retry_on or ())
    if own.retry_on:
        del options.retry_on[:]
    options.MergeFrom(own)
    return options


def put_options(batch: dts_pb2.JobBatch, asked: Iterable[dts_pb2.Options | None]) -> None:
    """Write what each job of a batch asks for into it: once, where all ask for the same."""
    each = list(asked)
    first = each[0]
    if all(options == first for options in each):
        if first is not None:
            batch.options.CopyFrom(first)
        return
    for job, options in zip(batch.jobs, each, strict=True):
        if options is not None:
            job.options.CopyFrom(options)


def is_long(options: dts_pb2.Options, function: Function | None, *, lease_after: float, lease_unlimited: bool) -> bool:
    """Whether an attempt may outlast the broker's patience with a consumer, so that it needs a lease.

    A timeout says so itself. Without one, an attempt has no end that is known: the function's record of how long its
    attempts took decides, or `lease_unlimited`.
    """
    if options.HasField("timeout"):
        return bool(options.timeout > lease_after)
    mean = function.mean_duration if function is not None else None
    return lease_unlimited or (mean is not None and mean > lease_after / 4)
