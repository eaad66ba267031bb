"""Which handler serves which path."""

from __future__ import annotations

from dts.server.handlers import health, jobs, runs
from dts.server.handlers._base import DtsHandler

ROUTES: list[tuple[str, type[DtsHandler]]] = [
    (r"/jobs/?", jobs.JobsHandler),
    (r"/jobs/([^/]+)", jobs.JobHandler),
    (r"/runs/?", runs.RunsHandler),
    (r"/runs/([^/]+)", runs.RunHandler),
    (r"/runs/([^/]+)/blocks/([0-9]{1,12})", runs.BlockHandler),
    (r"/runs/([^/]+)/results", runs.ResultsHandler),
    (r"/runs/([^/]+)/collected", runs.CollectedHandler),
    (r"/health/live", health.LiveHandler),
    (r"/health/ready", health.ReadyHandler),
    (r"/metrics", health.MetricsHandler),
]
