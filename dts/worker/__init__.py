"""The worker: takes jobs off the queues, runs them in child processes, publishes the results, then acks.

    worker ──▶ executor ──▶ process ══ frames ══▶ child ──▶ loader ──▶ functions/<ns>/<func>.py
       │           ▲          │  (the parent's end)   ▲
       ▼           │          └──▶ spawner ═══▶ template (forks children)
    publisher      recovery: what to do with the jobs of a child that died

The parent handles blocks of bytes; jobs are decoded, run and encoded in the children alone.

What functions import: `Retry`, `Fail`, `SoftTimeout`, `Cancelled`, and the module `dts.worker.context`.
"""

from dts.worker.attempt.exceptions import Cancelled, Fail, Retry, SoftTimeout

__all__ = ["Cancelled", "Fail", "Retry", "SoftTimeout"]
