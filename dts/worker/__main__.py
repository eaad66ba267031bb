"""`python -m dts.worker`: a worker process."""

from __future__ import annotations

import sys

from dts.worker.command.signals import Signals


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until it is asked to end; returns the exit code."""
    signals = Signals()
    signals.note()
    from dts.worker.command import cli  # only now, since it takes most of the time until the worker is up

    return cli.run(arguments, signals)


if __name__ == "__main__":
    sys.exit(main())
