"""What a caller, a function's record and the server say of how attempts are run, and how these go together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgspec

from dts.errors import InvalidInput
from dts.model import Function
from dts.model.attempts import ATTEMPT_OPTIONS
from dts.wire import dts_pb2
from dts.wire.numbers import Priority, Time, type_of
from dts.wire.options import merge, to_wire

S = TypeVar("S", bound=msgspec.Struct)


def with_attempt_options(base: type[S]) -> type[S]:
    """Decorate a Struct: it gets a field for each option of attempts, where null stands for none."""
    options: list[Any] = [(option.name, type_of(option), None) for option in ATTEMPT_OPTIONS]
    made = msgspec.defstruct(
        base.__name__,
        options,
        bases=(base,),
        module=base.__module__,
        namespace={"__doc__": base.__doc__},
        forbid_unknown_fields=True,
        kw_only=True,
    )
    return cast("type[S]", made)


@with_attempt_options
class AttemptParams(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a job or a run may ask for itself: the options of attempts, its priority, and its times.

    Durations are in seconds, times in seconds since the epoch, sizes in bytes. A `priority` of null is the function's.
    """

    priority: Priority | None = None
    not_before: Time | None = None
    deadline: Time | None = None


def own_options(params: AttemptParams, *, now: float, place: str = "params") -> dts_pb2.Options | None:
    """What `params` ask of attempts, as it travels; None if they ask for nothing.

    Raises:
        InvalidInput: two of them do not go together, or the deadline is over.
    """
    options = to_wire(params)
    if options.HasField("timeout") and options.soft_timeout >= options.timeout:
        raise InvalidInput(f"{place}: soft_timeout must be less than timeout, after which the job is stopped by force")
    if params.deadline is not None:
        options.deadline = params.deadline
        if params.deadline <= now:
            raise InvalidInput(f"{place}: deadline is over already: give a time in seconds since the epoch, in future")
        if params.not_before is not None and params.not_before >= params.deadline:
            raise InvalidInput(f"{place}: not_before must be earlier than deadline, or the job can never start")
    return options if options.ByteSize() else None


def merged_options(
    function: Function | None, own: dts_pb2.Options, default_timeout: float | None = None
) -> dts_pb2.Options:
    """The options of a message: what the function's record says and what the block asks for; the lower limit holds.

    `default_timeout` is for where neither says a timeout.
    """
    merged = merge(to_wire(function), own)
    if default_timeout is not None and not merged.HasField("timeout"):
        merged.timeout = default_timeout
    return merged


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
