"""What the commands that start a process have in common: their flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from dts.config import Settings, load_settings
from dts.runtime.logs import set_up_logging
from dts.runtime.process import keep_private
from dts.version import __version__

EXIT_CODES = """\
exit codes:
  0 ended as it was asked to   1 something failed: the log says what   2 the command line or configuration is wrong
"""


def process_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser with the flags that every process has: -c, -d, --version; its help ends with the exit codes."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"{epilog.rstrip()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="TOML file with the settings (default: none)")
    parser.add_argument("-d", "--dev", action="store_true", help="lay the file's [dev] table over its settings")
    parser.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")
    parser.add_argument("--log-format", choices=("text", "json"), help="how the log is written (default: text)")
    parser.add_argument("--version", action="version", version=f"dts {__version__}")
    return parser


def load_process_settings(
    options: argparse.Namespace, flags: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """The settings that a process was started with. Sets up its logging, and keeps its memory private.

    Raises:
        ConfigError: a setting is wrong.
    """
    given = {section: {k: v for k, v in table.items() if v is not None} for section, table in (flags or {}).items()}
    for key, value in (("level", options.log_level), ("format", options.log_format)):
        if value is not None:
            given.setdefault("logging", {})[key] = value
    settings = load_settings(options.config, dev=options.dev, flags=given)
    set_up_logging(settings.logging.level, settings.logging.format)
    keep_private()  # only now, since the file may be a descriptor of this process, as in -c <(…)
    return settings
