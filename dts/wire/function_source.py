"""What can be said of a function's source without running it: where it begins, and whether a worker could call it."""

from __future__ import annotations

import ast
import re

from dts.errors import InvalidInput
from dts.wire.archive import Source

REQUIREMENTS = "requirements.txt"
"""The file that lists the packages which a version needs beside DTS's own."""

CALLABLES = frozenset({"main", "main_many"})
"""What a worker calls."""

_REQUIREMENT = re.compile(
    r"(?!.*\s-)[A-Za-z0-9][A-Za-z0-9._-]*\s*"
    r"(\[[A-Za-z0-9._, -]*\])?\s*(\(?[<>=!~][^@;#/\\()$]*\)?)?\s*(;[^@#\\$]*)?"
)
"""The name of a package, versions and markers: PEP 508 without URLs."""

_HASH = re.compile(r"[a-z0-9]+:[0-9a-f]+")

_MAX_REQUIREMENT = 20_000
"""Characters of one requirement; with the hashes of all files of a large package it has some thousands."""

_MAX_MODULE = 1024 * 1024
"""Bytes of a module that is parsed; larger ones are data in disguise."""


def entry_of(function: str) -> str:
    """The file that a function `ns/func` begins in."""
    return f"{function.partition('/')[2]}.py"


def check_function_source(source: Source, function: str) -> None:
    """Make sure that a source has the module of a function, that this compiles, and that it has something to call.

    Raises:
        InvalidInput: it does not; the message says what to do.
    """
    entry = entry_of(function)
    if entry not in source:
        raise InvalidInput(
            f"{function} begins in a file {entry}, and there is none in its source: deploy that file, or a folder that "
            f"has it (or a main.py, which becomes {entry})"
        )
    data = source[entry].data
    if len(data) > _MAX_MODULE:
        raise InvalidInput(f"{entry} has {len(data)} bytes; a module may have {_MAX_MODULE}: keep data in other files")
    try:
        tree = ast.parse(data, entry)
    except SyntaxError as error:
        place = f", line {error.lineno}" if error.lineno else ""
        raise InvalidInput(f"{entry}{place}: it is not valid Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidInput(f"{entry} is not valid Python: {error or type(error).__name__}") from error
    if not _binds(tree.body):
        raise InvalidInput(f"{entry} has no main: write a function main(…), which workers call")
    check_requirements(source)


def requirements_of(source: Source) -> bytes:
    """The packages that a source needs, one a line, as `check_requirements` reads them; empty if it needs none.

    An installer is to have these lines, and not the file, which it may read in another way: what it sees was checked.
    """
    lines = _lines(source[REQUIREMENTS].data) if REQUIREMENTS in source else []
    return "".join(f"{line}\n" for line in lines).encode()


def check_requirements(source: Source) -> None:
    """Make sure that a source's requirements are names of packages, and nothing that runs code while it is installed.

    Raises:
        InvalidInput: one is an option, a path or a URL.
    """
    for line in requirements_of(source).decode().splitlines():
        if not _is_requirement(line):
            raise InvalidInput(
                f"{REQUIREMENTS}: {line[:80]!r}: only packages of an index can be required, such as pandas>=2: "
                "options, paths and URLs would have the hosts run what nobody has seen"
            )


def _is_requirement(line: str) -> bool:
    """Whether a line of a requirements file is a package of an index, with hashes of its files or without."""
    if len(line) > _MAX_REQUIREMENT or not line.isascii():
        return False
    package, *hashes = line.split(" --hash=")
    return _REQUIREMENT.fullmatch(package) is not None and all(map(_HASH.fullmatch, hashes))


def _lines(text: bytes) -> list[str]:
    """The requirements in a file, without comments, each as one line with single spaces."""
    physical = text.decode(errors="replace").splitlines()
    # Comments first: a backslash at the end of one continues nothing.
    kept = "\n".join("" if line.lstrip().startswith("#") else line for line in physical)
    lines = (" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in kept.replace("\\\n", " ").split("\n"))
    return [line for line in lines if line]


def _binds(body: list[ast.stmt]) -> bool:
    """Whether statements at the top of a module may bind a name that a worker calls."""
    return any(_bound_by(statement) for statement in body)


def _bound_by(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name in CALLABLES
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return any((alias.asname or alias.name) in (*CALLABLES, "*") for alias in statement.names)
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return any(
            isinstance(node, ast.Name) and node.id in CALLABLES for target in targets for node in ast.walk(target)
        )
    inner = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
    handlers = [handler.body for handler in getattr(statement, "handlers", [])]
    return any(_binds(block) for block in (*inner, *handlers))
