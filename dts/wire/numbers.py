"""The types of bounded numbers that requests are checked by: `dts.model.ranges` as msgspec has it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from dts.model.attempts import AttemptOption
from dts.model.ranges import MAX_NUMBER, NUMBER, PRIORITY, SECONDS, TIME, WEIGHT, Range

Seconds = Annotated[float, Meta(gt=SECONDS.low, le=SECONDS.high)]
"""A length of time that is not nothing."""
Wait = Annotated[float, Meta(ge=0, le=SECONDS.high)]
"""A length of time, or 0."""
Time = Annotated[float, Meta(ge=TIME.low, le=TIME.high)]
"""A moment, in seconds since the epoch."""
Number = Annotated[int, Meta(ge=int(NUMBER.low), le=MAX_NUMBER)]
"""Something that is counted."""
Priority = Annotated[int, Meta(ge=int(PRIORITY.low), le=int(PRIORITY.high))]
"""How urgent jobs are: 9 goes first."""
Weight = Annotated[float, Meta(ge=WEIGHT.low, le=WEIGHT.high)]
"""How much of the work something gets beside others, which have 1 unless they were given another."""

EXCEPTION = r"^[A-Za-z_][A-Za-z0-9_.]{0,255}$(?!\n)"
_Names = Annotated[tuple[Annotated[str, Meta(pattern=EXCEPTION)], ...], Meta(max_length=100)]


def type_of(option: AttemptOption) -> Any:
    """The type of an attempt's option in a request, where null stands for none."""
    return (_Names if option.values is None else bounded(option.kind, option.values)) | None


def bounded(kind: type, values: Range) -> Any:
    """The type of numbers within a range."""
    low, high = kind(values.low), kind(values.high)
    return Annotated[kind, Meta(gt=low, le=high) if values.above else Meta(ge=low, le=high)]
