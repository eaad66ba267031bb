"""The options of attempts as they travel in messages, and what holds where two of them say something."""

from __future__ import annotations

from dts.model.attempts import ATTEMPT_OPTIONS
from dts.wire.dts_pb2 import Options


def to_wire(asked: object) -> Options:
    """What an object with a field for each option asks for, as it travels; nothing for None."""
    options = Options()
    for option in ATTEMPT_OPTIONS if asked is not None else ():
        value = getattr(asked, option.name)
        if value is None:
            continue
        if option.values is None:
            getattr(options, option.name).extend(value)
        else:
            setattr(options, option.name, value)
    return options


def merge(first: Options, second: Options) -> Options:
    """What holds of a job when two ask for something: the lower of two limits; else what the second asks for.

    So nobody lifts a limit that a function's record sets by asking for more.
    """
    merged = Options()
    merged.CopyFrom(first)
    if second.retry_on:
        del merged.retry_on[:]
    merged.MergeFrom(second)
    for name in _LIMITS:
        if first.HasField(name) and second.HasField(name):
            setattr(merged, name, min(getattr(first, name), getattr(second, name)))
    return merged


_LIMITS = (*(option.name for option in ATTEMPT_OPTIONS if option.is_limit), "deadline")
