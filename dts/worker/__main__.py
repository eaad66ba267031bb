"""`python -m dts.worker`: a worker process."""

from __future__ import annotations

import argparse
import sys

from dts.broker import open_broker
from dts.config import Settings
from dts.runtime import process
from dts.runtime.options import load_process_settings, process_parser
from dts.runtime.process import Shutdown
from dts.worker.worker import Worker

EXAMPLES = """\
examples:
  python -m dts.worker -c etc/worker.toml
  python -m dts.worker -c etc/worker.toml --processes 8 --route default --route international
  DTS_BROKER_URL=amqp://dts:secret@queue.example/dts python -m dts.worker --functions /srv/functions

TERM or INT lets it finish what it has begun, and INT once more ends it at once; what was not finished then goes back
to the queue.
"""


def _parser() -> argparse.ArgumentParser:
    parser = process_parser(
        "python -m dts.worker", "Takes jobs off the queues and runs them in child processes.", EXAMPLES
    )
    parser.add_argument("--name", help="the worker's name in results (default: host name and process id)")
    parser.add_argument("--processes", type=int, metavar="N", help="children (default: one a processor)")
    parser.add_argument("--route", action="append", metavar="ROUTE", help="serve this route; may be repeated")
    parser.add_argument("--functions", metavar="DIR", help="functions directory (default: the bundled one)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until it is asked to end; returns the exit code."""
    options = _parser().parse_args(arguments)

    async def serve(shutdown: Shutdown) -> int:
        settings = load_process_settings(options, {"worker": _flags(options)})
        return await _serve(settings, shutdown)

    return process.run(serve)


def _flags(options: argparse.Namespace) -> dict[str, object]:
    return {
        "name": options.name,
        "processes": options.processes,
        "routes": tuple(options.route) if options.route else None,
        "functions": options.functions,
    }


async def _serve(settings: Settings, shutdown: Shutdown) -> int:
    async with open_broker(settings.broker.url) as broker:
        async with Worker(settings.worker, broker, hurry=shutdown.hurry) as worker:
            await shutdown.wait(worker.failed)
        return process.EXIT_FAILED if worker.failed.is_set() else process.EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
