"""What is to follow a run, as it is asked for: functions over its results, and functions that hear of its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from dts.errors import InvalidInput
from dts.model import Document, derived_id
from dts.server.intake.options import AttemptParams
from dts.store import Store

FOLLOWING = "following"
"""The collection of documents that say what follows a run, by the run's id."""

MAX_STEPS = 3
"""Functions that results may go through one after the other: each makes the numbers of jobs 2048 times as large."""

_Name = Annotated[str, msgspec.Meta(max_length=129)]
_Steps = Annotated[list[_Name], msgspec.Meta(min_length=1, max_length=MAX_STEPS)]


class FollowParams(AttemptParams, forbid_unknown_fields=True, kw_only=True):
    """What a job or a run asks for beside its own work: what is to follow it.

    `then` is a function, or several in a row, that each successful result goes through as it comes; `reduce` is one
    that makes one result of all. `on_success`, `on_failure` and `on_end` are called with a summary of the run.
    """

    then: _Name | _Steps | None = None
    reduce: _Name | None = None
    on_success: _Name | None = None
    on_failure: _Name | None = None
    on_end: _Name | None = None


class Following(msgspec.Struct, frozen=True, omit_defaults=True):
    """What follows a run. It names functions only, and each step has fewer than the one before: it has no circles."""

    then: tuple[str, ...] = ()
    reduce: str = ""
    on_success: str = ""
    on_failure: str = ""
    on_end: str = ""

    @property
    def functions(self) -> list[str]:
        """All functions that it names, each once."""
        names = (*self.then, self.reduce, self.on_success, self.on_failure, self.on_end)
        return list(dict.fromkeys(name for name in names if name))

    @property
    def next(self) -> Following:
        """What follows the run of the first step of `then`."""
        return Following(then=self.then[1:], reduce=self.reduce)


def following_of(params: FollowParams) -> Following:
    """What `params` ask to follow."""
    steps = params.then or []
    return Following(
        (steps,) if isinstance(steps, str) else tuple(steps),
        params.reduce or "",
        params.on_success or "",
        params.on_failure or "",
        params.on_end or "",
    )


def common_following(jobs: Iterable[FollowParams]) -> Following:
    """What follows jobs that are submitted together, as one run.

    Raises:
        InvalidInput: they do not all ask for the same.
    """
    asked = {following_of(job) for job in jobs}
    if len(asked) > 1:
        raise InvalidInput(
            "then, reduce, on_success, on_failure and on_end are of all jobs of a request together: give each job the "
            "same, or send the jobs in several requests"
        )
    return asked.pop()


async def follow(store: Store, run_id: str, following: Following) -> None:
    """Note what is to follow a run, before the run is stored, so that no end of it passes unnoticed. Safe to repeat.

    Raises:
        StoreUnavailable: it may not be noted; do not store the run.
    """
    if not following.functions:
        return
    data: dict[str, Any] = {"wants": msgspec.to_builtins(following), "made": store.now()}
    new = Document(FOLLOWING, run_id, data, due=store.now())
    while not await store.add_document(new):
        there = await store.get_document(FOLLOWING, run_id)
        if await store.get_run(run_id) is not None:
            return
        # The run was not stored the first time, and may have been given up since.
        if there is not None and await store.replace_document(replace(new, revision=there.revision)):
            return


def then_run_id(run_id: str) -> str:
    """The id of the run that a run's results go into."""
    return derived_id(run_id, "/then")


def reduce_run_id(run_id: str) -> str:
    """The id of the run whose one job makes one result of all of a run."""
    return derived_id(run_id, "/reduce")


def run_ids(run_id: str, following: Following) -> dict[str, str]:
    """The runs that follow a run, as they are answered: `then_run` of the first step, `reduce_run` after the last."""
    ids: dict[str, str] = {}
    if following.then:
        ids["then_run"] = then_run_id(run_id)
    for _ in following.then:
        run_id = then_run_id(run_id)
    if following.reduce:
        ids["reduce_run"] = reduce_run_id(run_id)
    return ids


async def what_follows(store: Store, run_id: str) -> dict[str, str]:
    """The runs that follow a run, and were made of its end, as they are answered; nothing if nothing was to.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    document = await store.get_document(FOLLOWING, run_id)
    if document is None:
        return {}
    answer = run_ids(run_id, msgspec.convert(document.data["wants"], Following))
    progress = document.data.get("progress", {})
    answer |= {f"{when}_run": call for when, call in progress.get("calls", {}).items() if call}
    return answer | ({"follow_problem": progress["problem"]} if progress.get("problem") else {})
