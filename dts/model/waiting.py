"""Jobs that wait: slices of blocks until a time, and jobs under a lease until they end or it expires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DelayedSlice:
    """Jobs of one block that become a message again when `due` (seconds since the epoch) has come.

    `id` follows from what made the slice, so that the same news twice makes it once. `jobs` is a bitmap, `attempt` the
    number of the attempt to come. `kills` and `fences` have, by index, the jobs for which they are not 0. `body` is an
    encoded ResultBatch with the errors of the last attempt, for whoever asks about a job meanwhile.

    A slice that is `gated` waits, once it is due, until its jobs may run under the limits `running` of their user,
    function and namespace. `released` has those that may, and are not known to be with the broker yet; they are no
    longer among `jobs`.
    """

    id: str
    block: str
    run: str
    user: str
    function: str
    due: float
    jobs: int
    attempt: int = 1
    kills: Mapping[int, int] = field(default_factory=dict)
    fences: Mapping[int, int] = field(default_factory=dict)
    body: bytes = b""
    content_encoding: str = ""
    gated: bool = False
    released: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that a worker holds without an unacked message.

    `fence` counts from 1 and goes up whenever the job is queued again: what comes with an older one is void. `expires`
    is in seconds since the epoch; None while the job is queued under its fence. `lost` says that the lease has expired
    and the job is on its way into the queue: its `fence` is the next holder's already.
    """

    block: str
    job: int
    run: str
    worker: str
    fence: int
    attempt: int
    expires: float | None
    lost: bool = False
