"""The figures of a worker, and whether it is ready."""

from __future__ import annotations

from prometheus_client import Gauge

from dts.broker import Broker
from dts.errors import DtsError
from dts.worker.worker import Worker

_CHILDREN = Gauge("dts_worker_children", "Child processes that are ready.")
_UP = Gauge("dts_worker_up", "1 while the worker can take jobs: has children, and is neither draining nor short.")
_MESSAGES = Gauge("dts_worker_messages", "Messages of jobs that the worker has taken and not settled.")


def publish_figures(worker: Worker) -> None:
    """Have the figures of a worker read off it whenever they are asked for."""
    _CHILDREN.set_function(lambda: len(worker.executor.children))
    _UP.set_function(lambda: not _missing_here(worker))
    _MESSAGES.set_function(lambda: len(worker.deliveries))


async def missing(worker: Worker, broker: Broker) -> dict[str, str]:
    """What the worker cannot work without, and why it is not there."""
    found = _missing_here(worker)
    try:
        await broker.ping()
    except DtsError as error:
        found["broker"] = error.message
    return found


def _missing_here(worker: Worker) -> dict[str, str]:
    found = {}
    if not worker.executor.children:
        found["children"] = "no child process is ready"
    if worker.short_of:
        found["machine"] = f"it is short of {worker.short_of}"
    if worker.draining:
        found["worker"] = "it drains, and takes nothing more"
    return found
