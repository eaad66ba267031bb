"""Plain data and its rules. Imports nothing but `dts.errors` and the standard library."""

from dts.model.job import Job, JobError, Result
from dts.model.names import (
    FunctionName,
    block_id,
    check_user_id,
    is_id,
    job_id,
    new_id,
    parse_function_name,
    split_job_id,
)
from dts.model.outcome import Merge, merge
from dts.model.records import (
    DEFAULT_ROUTE,
    MAX_BLOCK_SIZE,
    Block,
    Candidate,
    DeadLetter,
    Function,
    Outcome,
    Part,
    Run,
    Statistics,
    User,
)
from dts.model.states import JobState, RunState

__all__ = [
    "DEFAULT_ROUTE",
    "MAX_BLOCK_SIZE",
    "Block",
    "Candidate",
    "DeadLetter",
    "Function",
    "FunctionName",
    "Job",
    "JobError",
    "JobState",
    "Merge",
    "Outcome",
    "Part",
    "Result",
    "Run",
    "RunState",
    "Statistics",
    "User",
    "block_id",
    "check_user_id",
    "is_id",
    "job_id",
    "merge",
    "new_id",
    "parse_function_name",
    "split_job_id",
]
