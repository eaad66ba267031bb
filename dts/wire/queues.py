"""The names of the queues and of the topics of small events."""

from __future__ import annotations

JOBS_PREFIX = "dts.jobs."
RESULTS = "dts.results"
HEARTBEATS = "dts.heartbeats"
LOGS = "dts.logs"
DEAD = "dts.dead"
"""Where every other queue's dead letters go."""

BOUNDED = {HEARTBEATS: 2_000, LOGS: 20_000}
"""Queues that hold so many messages at most, and drop the oldest: what nobody consumes must not fill a disk."""

TOPIC_RESULTS = "results"
"""Payload: ids of the runs that have new results, separated by spaces."""
TOPIC_CANCELLED = "cancelled"
"""Payload: ids of the runs and jobs that were cancelled, separated by spaces."""
TOPIC_CANCELLED_WHICH = "cancelled?"
"""A worker asks which runs and jobs are cancelled; the answer comes by TOPIC_CANCELLED. Payload: a word of its own,
and the answer is complete with the event that has the word in it, as `end_of_answer` puts it."""
TOPIC_DAEMONS_WHICH = "daemons?"
"""Somebody asks which daemons are at work; each process that runs some answers with TOPIC_DAEMONS. No payload."""
TOPIC_DAEMONS = "daemons"
"""Payload: names of daemons, separated by spaces."""
TOPIC_GATED = "gated"
"""There are jobs that wait until others have ended, by the limits `running`. Payload: nothing of interest."""
TOPIC_LEFT = "left"
"""A server has left jobs in the store for the dispatcher to publish. Payload: nothing of interest."""
TOPIC_BUSY = "busy"
"""Payload: the routes that have a backlog, separated by spaces: servers leave all that is accepted for them to the
dispatcher, until the next such event, or for some seconds."""
TOPIC_PROGRESS = "progress"
"""Payload: JSON, an object of `<block>.<index>` of a job → [done, total or 0 where it is not known, and an
array of the values that it has yielded last, if any]."""
TOPIC_SPEEDS = "speeds"
"""Payload: JSON, an object of function name → [mean duration in seconds, whether it runs many jobs at a time]."""


def end_of_answer(word: str) -> str:
    """What TOPIC_CANCELLED carries after the last id that was asked for with a word."""
    return f"end:{word}"


def jobs_queue(route: str) -> str:
    """The queue that carries the jobs of a route."""
    return JOBS_PREFIX + route
