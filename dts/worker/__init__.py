"""The worker: takes jobs off the queues, runs them in child processes, publishes the results, then acks.

    worker ──▶ executor ──▶ workplace ══ frames ══▶ child ──▶ loader ──▶ functions/<ns>/<func>.py
       │           ▲            (the parent's end)    (its own interpreter)
       ▼           │
    publisher      recovery: what to do with the jobs of a child that died

The parent handles blocks of bytes; jobs are decoded, run and encoded in the children alone.
"""
