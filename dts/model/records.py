"""What a store keeps of work: runs, blocks and outcomes. Plain frozen data; the rules are in `outcome`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dts.model.states import JobState, RunState

MAX_BLOCK_SIZE = 2048
"""Jobs in a block at most: keeps a block's outcome with all its inline parts well under MongoDB's 16 MB a document."""


@dataclass(frozen=True, slots=True)
class Finished:
    """When a run finished (seconds since the epoch, by the store's clock), and how many of its jobs ended how."""

    time: float
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """How many jobs the run had."""
        return self.succeeded + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class Run:
    """All jobs of one file, or of one `POST /jobs/`, that go through one function.

    `function` is empty when the run was made by one `POST /jobs/` with several functions: its blocks know theirs.
    `created` is in seconds since the epoch. Job number n of the run has index n mod `block_size` in block
    n div `block_size`. Its blocks are not published before `not_before` (seconds since the epoch). `options` is what it
    asks of attempts, as an encoded Options message. `single` says that it was made by one `POST /jobs/`.
    `priority` is that of its jobs, None for their function's; `weight` is its share beside the user's other runs.

    `finished` is set once and for all when the run takes no more blocks and its last job has ended. `follow_up` says
    that something is still to be done then, see `FinishingStore.runs_to_follow_up`.
    """

    id: str
    user: str
    function: str
    block_size: int
    state: RunState = RunState.OPEN
    paused: bool = False
    created: float = 0.0
    not_before: float = 0.0
    options: bytes = b""
    single: bool = False
    priority: int | None = None
    weight: float = 1.0
    finished: Finished | None = None
    follow_up: bool = False


class Turns(NamedTuple):
    """What decides when a run's jobs are published, beside others': see `Run`."""

    priority: int | None
    weight: float


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """What a user's idempotency key stands for: the run that a request made, and a digest of the request's body.

    `created` is when it first came, in seconds since the epoch.
    """

    user: str
    key: str
    run: str
    digest: bytes
    created: float


@dataclass(frozen=True, slots=True)
class Block:
    """Jobs that were accepted in one request, for one function; immutable once stored.

    `first` is the number in the run of the job with index 0 (block number × block size). `body` is the encoded
    JobBatch; its jobs have the indices 0 to count - 1. `digest` tells a repeat of the same block from another one under
    its number. `published` becomes true when the broker has confirmed every message; `sent` are the first jobs for
    which it has until then. Neither is tried before `not_before`. After `deadline` its jobs are not started; 0 is none,
    for either. `single`, `priority` and `weight` are as of its run; jobs of one `POST /jobs/` have priorities of
    their own.
    """

    id: str
    run: str
    number: int
    first: int
    user: str
    function: str
    count: int
    body: bytes
    content_encoding: str
    digest: bytes
    created: float
    published: bool = False
    not_before: float = 0.0
    deadline: float = 0.0
    sent: int = 0
    single: bool = False
    priority: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A process's right to publish some blocks, alone, for `seconds` from when it asked.

    `holder` names the process: a claim is extended and given back under the name that it was taken by. `taken` is when
    the process was about to ask (its own monotonic seconds): the claim ends by the store's clock, and not before
    `taken` + `seconds` by the process's.
    """

    holder: str
    seconds: float
    taken: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many `jobs`, in how many `blocks`, of a run wait to be published, or of all single jobs of a user together.

    Of single jobs, `run` is empty. Those of one run, or such jobs, that differ in function, priority or weight are in
    rows of their own. `since` is from when on the first of them has waited, in seconds since the epoch.
    """

    run: str
    user: str
    function: str
    jobs: int
    priority: int | None = None
    weight: float = 1.0
    blocks: int = 1
    since: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Unsent:
    """A block that is not published, or in part: its first `sent` jobs are."""

    outcome: Outcome
    sent: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ResultBatch that asks to become a part of its block's outcome.

    The bitmaps say how each of its jobs ended; `running` has the jobs that are still at work, `stopped` those that are
    no longer and have not ended either. A candidate with
    nothing but `running` has an empty body. `function` is for the figures, and is not stored.
    """

    block: str
    body: bytes = b""
    content_encoding: str = ""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    running: int = 0
    stopped: int = 0
    function: str = field(default="", compare=False)

    @property
    def ended(self) -> int:
        """The jobs that this candidate says have ended, as a bitmap."""
        return self.succeeded | self.failed | self.cancelled


@dataclass(frozen=True, slots=True)
class Part:
    """A ResultBatch that was accepted into an outcome, for the jobs in the bitmap `jobs` and no others.

    Its body may hold results of further jobs: those had ended before, and are not this part's.
    """

    block: str
    number: int
    jobs: int
    body: bytes
    content_encoding: str

    @property
    def receipt(self) -> str:
        """What a client hands back once it has the part: `<block number>.<part number>` within the run."""
        return f"{self.block.rpartition('-')[2]}.{self.number}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a block so far: bitmaps of its jobs, and how many ended how. Its parts are read apart.

    `parts` is how many there are. `first` is the number in the run of the job with index 0.
    """

    block: str
    run: str
    first: int
    user: str
    function: str
    count: int
    ended: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    parts: int = 0

    @property
    def unfinished(self) -> int:
        """The bitmap of jobs that have not ended."""
        return ((1 << self.count) - 1) & ~self.ended


@dataclass(frozen=True, slots=True)
class Statistics:
    """How many jobs of a run, or of a user, are in which state, and how many are in all."""

    total: int = 0
    accepted: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    delayed: int = 0

    @property
    def ended(self) -> int:
        """Jobs in a terminal state."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def queued(self) -> int:
        """Jobs that are with the broker and not yet seen at work."""
        return max(0, self.total - self.ended - self.running - self.accepted - self.delayed)

    def as_dict(self) -> dict[str, int]:
        """The figures by the names of the states, and `total`."""
        return {
            "total": self.total,
            JobState.ACCEPTED.value: self.accepted,
            JobState.QUEUED.value: self.queued,
            JobState.RUNNING.value: self.running,
            JobState.DELAYED.value: self.delayed,
            JobState.SUCCEEDED.value: self.succeeded,
            JobState.FAILED.value: self.failed,
            JobState.CANCELLED.value: self.cancelled,
        }


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that nobody could handle, with what is known of it. `died` is in seconds since the epoch."""

    id: str
    queue: str
    reason: str
    body: bytes
    content_encoding: str
    headers: Mapping[str, str | int] = field(default_factory=dict)
    died: float = 0.0
