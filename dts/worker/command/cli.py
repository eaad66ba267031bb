"""The command line of `python -m dts.worker`."""

from __future__ import annotations

import argparse

from dts.config import Settings
from dts.runtime import process
from dts.runtime.options import load_process_settings, process_parser
from dts.runtime.process import Shutdown
from dts.worker.command import serve as command
from dts.worker.command.signals import Signals

EXAMPLES = """\
examples:
  python -m dts.worker -c etc/worker.toml
  python -m dts.worker -c etc/worker.toml --processes 8 --route default --route international
  DTS_BROKER_URL=amqp://dts:secret@queue.example/dts python -m dts.worker --functions /srv/functions
  python -m dts.worker -c etc/worker.toml --check
  python -m dts.worker -c etc/worker.toml --burst

signals:
  TERM, INT   finish what is begun, give back the rest, and end; after drain_timeout seconds give back everything
  INT again   end at once; what was not finished goes back to the queue
  HUP         read the configuration again and go on with it; the log says what takes a restart
  USR1        print to stderr what each child is doing
"""


def _parser() -> argparse.ArgumentParser:
    parser = process_parser(
        "python -m dts.worker", "Takes jobs off the queues and runs them in child processes.", EXAMPLES
    )
    parser.add_argument("--name", help="the worker's name in results (default: host name and process id)")
    parser.add_argument("--processes", type=int, metavar="N", help="children (default: one a processor)")
    parser.add_argument("--route", action="append", metavar="ROUTE", help="serve this route; may be repeated")
    parser.add_argument("--functions", metavar="DIR", help="functions directory (default: the bundled one)")
    parser.add_argument("--check", action="store_true", help="say whether it could work, and end")
    parser.add_argument(
        "--burst", action="store_true", help="end when the queues are empty; a broker that is away for 30 s is an error"
    )
    return parser


def run(arguments: list[str] | None, signals: Signals) -> int:
    """Run a worker until it is asked to end; returns the exit code."""
    options = _parser().parse_args(arguments)

    def load() -> Settings:
        return load_process_settings(options, {"worker": _flags(options)})

    async def serve(shutdown: Shutdown) -> int:
        if options.check:
            return await command.check(load())
        return await command.serve(load(), shutdown, reload=load, signals=signals, burst=options.burst)

    return process.run(serve)


def _flags(options: argparse.Namespace) -> dict[str, object]:
    return {
        "name": options.name,
        "processes": options.processes,
        "routes": tuple(options.route) if options.route else None,
        "functions": options.functions,
    }
