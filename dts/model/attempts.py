"""How attempts at a job are run: each option is declared once, as a field of AttemptOptions.

Made from these fields: the record of a function, what a job or a run may ask for (REST), the fields of a function (REST
and shell), and what becomes of several of them at once. A test holds dts.proto, `[worker]` and the docs to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from dts.model.ranges import ATTEMPTS, BATCH, BYTES, CONCURRENCY, SECONDS, Range

_OPTION = "option"


@dataclass(frozen=True, slots=True)
class AttemptOption:
    """One option. `values` bounds a number, and is None for a list of names; `meaning` is for help texts.

    Every option with a number is a limit: of those that a job and its function ask for, the lower one holds.
    """

    name: str
    kind: type[float] | type[int] | type[str]
    values: Range | None
    meaning: str

    @property
    def is_limit(self) -> bool:
        """Whether the lower of two values holds; else what the job asks for replaces what its function says."""
        return self.values is not None


def _option(kind: type[float] | type[int] | type[str], values: Range | None, meaning: str) -> Any:
    return field(default=None, metadata={_OPTION: (kind, values, meaning)})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOptions:
    """What a function, a run or a job says of its attempts; None where it says nothing."""

    soft_timeout: float | None = _option(float, SECONDS, "seconds after which the function gets an exception")
    timeout: float | None = _option(float, SECONDS, "seconds after which the attempt's process is killed")
    max_attempts: int | None = _option(int, ATTEMPTS, "attempts at a job, at most")
    retry_on: tuple[str, ...] | None = _option(str, None, "names of exceptions after which a job is tried again")
    memory_limit: int | None = _option(int, BYTES, "bytes of memory that a job may take")
    concurrency: int | None = _option(int, CONCURRENCY, "jobs of an async function that a child runs at a time")
    batch: int | None = _option(int, BATCH, "jobs that one call of main_many gets, at most")


ATTEMPT_OPTIONS = tuple(AttemptOption(each.name, *each.metadata[_OPTION]) for each in fields(AttemptOptions))
"""All of them, in the order in which they are shown."""
