"""What one `POST /jobs/` asks for: jobs, sorted into blocks of a run of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import msgspec

from dts.config import ServerSettings
from dts.model import Block, Run, RunState, User, job_id, new_id
from dts.server.intake.following import FollowParams, common_following
from dts.server.intake.ingest import Arguments, batch_from_arguments, check_arguments, new_block
from dts.server.intake.options import own_options, put_options
from dts.server.record.deadlines import earliest_deadline
from dts.wire import dts_pb2

RawArray = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "array"})]
RawObject = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]

_Group = tuple[str, float, int | None]
"""Jobs that may share a block: their function, the time before which they are not started, or 0, and priority."""


class JobParams(FollowParams, forbid_unknown_fields=True, kw_only=True):
    """A job as it is asked for."""

    function: str
    args: RawArray = msgspec.field(default_factory=msgspec.Raw)
    kwargs: RawObject = msgspec.field(default_factory=msgspec.Raw)


class Submission:
    """Jobs as asked for by a user at a time (seconds since the epoch), at most `size` of them in a block.

    The same jobs, time, size and run's id always give the same blocks and the same ids. With a `seal`, a digest of
    what else must be the same, blocks are told from others under their ids by that as well.

    Raises:
        InvalidInput: naming the job and what is wrong with it.
    """

    def __init__(
        self, jobs: Sequence[JobParams], user: User, now: float, size: int, *, run_id: str = "", seal: bytes = b""
    ) -> None:
        self._jobs = jobs
        self._user = user
        self._seal = seal
        self._groups: dict[_Group, list[tuple[Arguments, dts_pb2.Options | None]]] = {}
        self._places: list[tuple[_Group, int]] = []
        for number, job in enumerate(jobs):
            self._add(job, now, f"params[{number}]")
        self.functions = {job.function for job in jobs}
        self.following = common_following(jobs)
        only = jobs[0].function if len(self.functions) == 1 else ""
        first = jobs[0].priority
        self.run = Run(
            run_id or new_id(), user.id, only, size, RunState.CLOSED, created=now, single=True, priority=first
        )
        self.run = replace(self.run, follow_up=bool(self.following.functions))

    def _add(self, job: JobParams, now: float, place: str) -> None:
        args, kwargs = bytes(job.args), bytes(job.kwargs)
        check_arguments(args, kwargs, place)
        not_before = job.not_before or 0.0
        group = job.function, not_before if not_before > now else 0.0, job.priority
        rows = self._groups.setdefault(group, [])
        self._places.append((group, len(rows)))
        rows.append((Arguments(args, kwargs), own_options(job, now=now, place=place)))

    def again(self, run: Run) -> Submission:
        """The same jobs as they were asked for first, as that run."""
        return Submission(self._jobs, self._user, run.created, run.block_size, run_id=run.id, seal=self._seal)

    @property
    def block_count(self) -> int:
        """How many blocks there are."""
        return len(self._groups)

    @property
    def ids(self) -> list[str]:
        """The jobs' ids, in the order in which they were asked for."""
        numbers = {group: number for number, group in enumerate(self._groups)}
        return [job_id(self.run.id, numbers[group] * self.run.block_size + index) for group, index in self._places]

    def blocks(
        self, settings: ServerSettings, versions: Mapping[str, str] | None = None
    ) -> list[tuple[Block, dts_pb2.JobBatch]]:
        """A block for each group of the jobs; `versions` are the hashes of those that functions run, by name."""
        versions = versions or {}
        return [
            self._block(number, group, settings, versions.get(group[0], ""))
            for number, group in enumerate(self._groups)
        ]

    def _block(
        self, number: int, group: _Group, settings: ServerSettings, version: str
    ) -> tuple[Block, dts_pb2.JobBatch]:
        rows = self._groups[group]
        name, not_before, priority = group
        batch = batch_from_arguments([arguments for arguments, _ in rows])
        put_options(batch, [options for _, options in rows])
        batch.lease = any(job.options.timeout > settings.lease_after for job in batch.jobs)
        block = replace(new_block(self.run, number, name, batch, version=version), priority=priority)
        digest = hashlib.blake2b(block.digest + self._seal, digest_size=16).digest() if self._seal else block.digest
        return replace(block, digest=digest, not_before=not_before, deadline=earliest_deadline(batch)), batch
