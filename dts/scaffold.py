"""`dts init DIR`: a folder to run DTS from, with commented settings and a functions directory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dts.runtime.process import EXIT_FAILED, EXIT_OK

FUNCTION = '''\
"""Greets: the function own/hello."""


def main(name: str) -> str:
    return f"Hello, {name}!"
'''

NEXT = """\
Next, start everything on this machine:
  cd {folder}
  dts --functions functions
which registers what lies in functions/, and in another terminal:
  printf 'Ada\\nGrace\\n' | dts-client own/hello - - http://127.0.0.1:8000
"""

EXAMPLES = """\
example:
  dts init /srv/dts && cd /srv/dts && dts --functions functions
"""


def main(arguments: list[str]) -> int:
    """Write the folder and print what to type next; returns the exit code. A file that exists is never overwritten."""
    parser = argparse.ArgumentParser(
        prog="dts init",
        description="Make a folder to run DTS from: etc/ with commented settings, functions/ with an example.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder; made if it does not exist")
    folder: Path = parser.parse_args(arguments).folder
    try:
        for path, text in _contents():
            _write(folder / path, text)
    except OSError as error:
        _say(f"dts init: cannot write {error.filename}: {error.strerror}")
        return EXIT_FAILED
    _say(NEXT.format(folder=folder).rstrip())
    return EXIT_OK


def _contents() -> Iterator[tuple[str, str]]:
    """Path, relative to the folder, and text of each file."""
    for path, source in _settings(files("dts") / "etc", "etc"):
        text = source.read_text(encoding="utf-8")
        if path == "etc/worker.toml":
            text = text.replace('functions = ""   ', 'functions = "functions"', 1)
        yield path, text
    yield "functions/own/hello.py", FUNCTION


def _settings(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        below = f"{path}/{entry.name}"
        if entry.is_dir():
            yield from _settings(entry, below)
        elif entry.name.endswith(".toml"):
            yield below, entry


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _say(f"kept {path}, which exists")
    else:
        _say(f"wrote {path}")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
