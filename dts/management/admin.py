"""The command `dts-admin`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dts.version import __version__

DESCRIPTION = "Manage users, namespaces, functions and hosts of a DTS server."


def build_parser() -> argparse.ArgumentParser:
    """The command line of `dts-admin`."""
    parser = argparse.ArgumentParser(prog="dts-admin", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"dts {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    build_parser().parse_args(argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
