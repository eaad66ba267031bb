"""The contract of a store: what every back end promises, and the conformance suite checks.

A store keeps the records and the log of administrators, runs, blocks and outcomes. Every write that this contract
calls durable has reached stable storage (on MongoDB: a majority and its journal; on SQLite: an fsync) when the call
returns. An operation costs per block, not per job: nothing here decodes a block or a part.

Several processes may use one store at once. No method blocks the event loop. Every method raises StoreUnavailable
when the service does not answer in a few seconds, or refuses for whatever reason that is not in what it was given;
nothing or all of that call's effect may be stored then, and every method is safe to repeat. What cannot be stored
whoever tries it is NotStorable, or a ValueError, TypeError or OverflowError of who encodes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from dts.model import (
    Block,
    Claim,
    Function,
    KeyedRequest,
    Outcome,
    Record,
    Run,
    RunState,
    Turns,
    User,
    split_job_id,
)
from dts.store.contract.backlog import BacklogStore
from dts.store.contract.dead import DeadLetterStore
from dts.store.contract.documents import DocumentStore
from dts.store.contract.finishing import FinishingStore
from dts.store.contract.fleet import FleetStore
from dts.store.contract.gate import GateStore
from dts.store.contract.operations import OperationStore
from dts.store.contract.records import R, Where
from dts.store.contract.repair import RepairStore
from dts.store.contract.results import JobPlace, ResultStore
from dts.store.contract.retention import RetentionStore
from dts.store.contract.waiting import WaitingStore

KEYS_KEPT = 24 * 3600.0
"""Seconds for which `remember_request` remembers at least."""


class Store(
    ResultStore,
    OperationStore,
    BacklogStore,
    DeadLetterStore,
    WaitingStore,
    FleetStore,
    RepairStore,
    GateStore,
    FinishingStore,
    RetentionStore,
    DocumentStore,
    ABC,
):
    """A way to the record. One object serves a whole process; all its methods may be called concurrently."""

    # life

    @abstractmethod
    async def start(self) -> None:
        """Connect and create what is missing (tables, collections, indexes). May be called again after it raised.

        Raises:
            ConfigError: the URL can never work.
            StoreUnavailable: the service does not answer now.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what was begun and let go of the service. May be called twice, or without a start."""

    @abstractmethod
    async def ping(self) -> None:
        """Make sure that the store answers now.

        Raises:
            StoreUnavailable: it does not, within two seconds.
        """

    @abstractmethod
    def now(self) -> float:
        """The store's time, in seconds since the epoch: one for all processes, whatever time their hosts have.

        What one process notes and another compares counts by it: leases, delays.
        """

    async def follow_clock(self) -> float:
        """Move what counts from the time that it was noted at, such as delays, if the store's clock was set since then.

        Returns by how many seconds it was set; 0 if it was not, or nobody can set it.
        """
        return 0.0

    # records: users, namespaces, functions, hosts

    @abstractmethod
    async def add_record(self, record: Record) -> None:
        """Add a record, durably.

        Raises:
            DuplicateKey: there is one of its kind and id.
        """

    @abstractmethod
    async def get_record(self, kind: type[R], record_id: str) -> R | None:
        """The record of that kind and id, or None."""

    @abstractmethod
    async def list_records(
        self, kind: type[R], *, where: Where | None = None, limit: int | None = 100, after: str | None = None
    ) -> list[R]:
        """Records of a kind by id, those that match `where`, from the one that follows the id `after`; None: all.

        The names in `where` are fields of the record (a function has `id` for its name, and `namespace`), and the
        caller's own, never a user's text.
        """

    @abstractmethod
    async def replace_record(self, record: Record, *, version: int) -> bool:
        """Put a record in the place of the one of its id if that has the given version; durably and atomically.

        Returns whether it did. The record brings its new version along.

        Raises:
            LastAdministrator: no user would be left who is an administrator and not disabled; nothing is changed,
                however many try at the same time.
        """

    @abstractmethod
    async def delete_record(self, kind: type[Record], record_id: str, *, version: int) -> bool:
        """Delete the record of that kind and id if it has the given version; durably. Returns whether it did.

        Raises:
            LastAdministrator: as `replace_record`.
        """

    async def add_user(self, user: User) -> None:
        """Add a user, durably.

        Raises:
            DuplicateKey: there is a user of that id.
        """
        await self.add_record(user)

    async def get_user(self, user_id: str) -> User | None:
        """The user of that id, or None."""
        return await self.get_record(User, user_id)

    async def has_users(self) -> bool:
        """Whether there is any user at all."""
        return bool(await self.list_records(User, limit=1))

    async def add_function(self, function: Function) -> None:
        """Register a function, durably.

        Raises:
            DuplicateKey: a function of that name is registered.
        """
        await self.add_record(function)

    async def get_function(self, name: str) -> Function | None:
        """The function of that name, or None."""
        return await self.get_record(Function, name)

    async def list_functions(self) -> list[Function]:
        """All functions, by name."""
        return await self.list_records(Function, limit=None)

    @abstractmethod
    async def list_seeded(self) -> frozenset[str]:
        """All names that `note_seeded` was ever given."""

    @abstractmethod
    async def note_seeded(self, names: Iterable[str]) -> None:
        """Remember, durably, that what goes by these names was put in once: who deletes it does not want it again."""

    @abstractmethod
    async def set_speeds(self, speeds: Mapping[str, tuple[float, bool]]) -> None:
        """Note the `mean_duration` (seconds) and `concurrent` of functions by name. Unknown names are passed over.

        Need not be durable.
        """

    @abstractmethod
    async def use_nonce(self, user_id: str, nonce: str, expires: float) -> bool:
        """Use up a nonce: True for the first caller of all processes, False for every other until it has expired.

        `expires` is in seconds since the epoch; after it the nonce may be forgotten. Need not be durable.
        """

    # runs

    @abstractmethod
    async def add_run(self, run: Run) -> None:
        """Add a run, durably.

        Raises:
            DuplicateKey: there is a run of that id.
        """

    @abstractmethod
    async def get_run(self, run_id: str) -> Run | None:
        """The run of that id, or None."""

    async def job_place(self, job_id: str | None) -> JobPlace:
        """Where a job is; the place before all others if it is none, or its run is not there."""
        parts = split_job_id(job_id) if job_id else None
        run = await self.get_run(parts[0]) if parts else None
        return JobPlace(parts[0], parts[1] // run.block_size, parts[1]) if parts and run else JobPlace()

    @abstractmethod
    async def list_runs(
        self, user: str | None = None, *, limit: int = 100, after: str | None = None, single: bool = True
    ) -> list[Run]:
        """Runs, newest first, of one user or of all, from the one that follows the id `after`.

        With `single` False those that are `single` are left out, and cost nothing however many there are.
        """

    @abstractmethod
    async def update_run(
        self,
        run_id: str,
        *,
        state: RunState | None = None,
        paused: bool | None = None,
        turns: Turns | None = None,
        now: float | None = None,
    ) -> Run | None:
        """Move a run to a state if `RunState.may_become` allows it, and set its flag; durably and atomically.

        A run that has finished stays in its state. One that has no job left to end finishes when it is closed. With
        `turns`, priority and weight become others, of the run and of its blocks that wait to be published.

        Returns the run as it is afterwards, moved or not; None if there is none. A caller that asked for a move which
        is not allowed sees that the state is another one. When a run becomes cancelled is kept: `now`, in seconds since
        the epoch, or else the time of the call.
        """

    @abstractmethod
    async def cancel_runs(self, run_ids: Sequence[str], *, function: str | None = None) -> dict[str, bool]:
        """Cancel runs as `update_run` does, with one write; durably. With `function` those of that function alone.

        Returns the ids of those among them that are cancelled then, and whether this call did it. `unswept_runs` gives
        those of them with jobs that have not ended.
        """

    @abstractmethod
    async def cancelled_runs(self, since: float, *, limit: int) -> list[str]:
        """Ids of runs that were cancelled after `since` (seconds since the epoch): the last `limit` ones, latest first.

        A run of which it was not kept when it was cancelled counts as cancelled when it was created.
        """

    @abstractmethod
    async def unswept_runs(self, *, due_before: float, limit: int) -> list[str]:
        """Ids of up to `limit` runs that are over but may have jobs that have not ended.

        Cancelled runs that `note_swept` was not called for, however old; and cancelled or finished ones with a block
        that has unfinished jobs, was not published, and could have been before `due_before` (seconds since the epoch):
        a process stored it that took the run for an open one and died before it learned better, see `add_blocks`.
        Other runs cost nothing.
        """

    @abstractmethod
    async def note_swept(self, run_ids: Sequence[str]) -> None:
        """Note, durably, that every job has ended of the blocks that these runs had when they were cancelled.

        Runs that are not cancelled, and unknown ids, are passed over.
        """

    @abstractmethod
    async def remember_request(self, request: KeyedRequest) -> KeyedRequest:
        """Remember what a key of a user's stands for, unless it stands for something already; returns what it does.

        Of several who ask at the same time one is first. It is durable when a later durable write is, and forgotten
        KEYS_KEPT seconds after its `created` at the earliest.
        """

    @abstractmethod
    async def find_request(self, user: str, key: str) -> KeyedRequest | None:
        """What a key of a user's stands for, or None."""

    # blocks

    @abstractmethod
    async def add_blocks(
        self, blocks: Sequence[Block], *, run: Run | None = None, claim: Claim | None = None
    ) -> list[bool]:
        """Add blocks, each with its empty outcome, durably; with `run`, that run, too, before them.

        With `claim`, new blocks are claimed from the start, by the server that is going to publish them.

        A block that is there already with the same digest is a repeat: nothing is changed, False in its place. Of equal
        blocks that are added at once, one is new.

        Of adding a block and closing or cancelling its run, one sees the other: whoever lists a run's blocks after
        `update_run` has done that finds every block whose addition was not refused as too late.

        Raises:
            BlockConflict: one is there with another digest. Others of the sequence may have been added.
            BlockTooLate: the run of one that is new is cancelled or has finished, or is closed and not `run`, or is not
                there. They may have been added all the same: the caller ends their jobs, and publishes none; or
                `unswept_runs` tells of them, if it cannot.
        """

    @abstractmethod
    async def get_block(self, block_id: str) -> Block | None:
        """The block of that id, or None."""

    @abstractmethod
    async def list_blocks(self, run_id: str, *, limit: int = 100, after: int = -1) -> list[Outcome]:
        """The outcomes of a run's blocks, in order of block number, from the one that follows number `after`."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
