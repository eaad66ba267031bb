"""What may be changed of a run, and the turns that it is to have then."""

from __future__ import annotations

from typing import Literal

import msgspec

from dts.model import Run, Turns
from dts.server.consts import ErrorCode
from dts.server.handlers.errors import ApiError
from dts.wire.numbers import Priority, Weight


class RunChanges(msgspec.Struct, forbid_unknown_fields=True):
    """What may be changed of a run.

    `state` moves it: `closed`, when all its blocks are sent; `paused`, and `open` to resume. `priority` (null for the
    function's) and `weight` hold for all that waits in the store.
    """

    state: Literal["open", "closed", "paused"] | msgspec.UnsetType = msgspec.UNSET
    priority: Priority | msgspec.UnsetType | None = msgspec.UNSET
    weight: Weight | msgspec.UnsetType = msgspec.UNSET


def turns_of(run: Run, params: RunChanges) -> Turns | None:
    """The priority and weight that a run is to have; None if neither is asked for.

    Raises:
        ApiError: the request asks for nothing at all, or for a weight of single jobs.
    """
    if params == RunChanges():
        raise ApiError(ErrorCode.ARGUMENT_MISSING, "params names no field: give state, priority or weight")
    if params.weight is not msgspec.UNSET and run.single:
        raise ApiError(ErrorCode.ARGUMENT_INVALID, "weight is for runs of files: single jobs share as one, see users")
    if params.priority is msgspec.UNSET and params.weight is msgspec.UNSET:
        return None
    priority = run.priority if isinstance(params.priority, msgspec.UnsetType) else params.priority
    return Turns(priority, run.weight if isinstance(params.weight, msgspec.UnsetType) else params.weight)
