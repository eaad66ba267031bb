"""What doctor checks on this machine: files with secrets, a configuration file, a functions directory."""

from __future__ import annotations

import ast
import asyncio
import os
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import dts
from dts.client.credentials import CREDENTIALS_FILE
from dts.config import Settings, load_settings
from dts.errors import ConfigError, InvalidName
from dts.management.doctor.causes import broker_advice, store_advice
from dts.management.doctor.remote import Finding, bad, ok, some, warning
from dts.management.utils import counted
from dts.model import parse_function_name

_KEY_ADVICE = (
    "and leave it as it is: nothing in the store can be read with another one. Whoever has read it and a copy of the "
    "store can sign as every user: have all secrets changed if that may be, and the hosts' ssh keys"
)
"""What to do about a key file that others may have read."""

_FLEET_KEY_ADVICE = (
    "and change the key (docs/security.md): whoever has it and can reach the broker can give orders to every worker"
)

_ADVISE = {"store": store_advice, "key file": store_advice, "broker": broker_advice}
"""The parts that `python -m dts.server --check` names, and where what to do about each is found."""

BUNDLED = Path(dts.__file__).parent / "worker" / "functions"


def check_secret_files(secret_file: str | None, environment: Mapping[str, str] | None = None) -> list[Finding]:
    """Whether the files with our own secret are for us alone."""
    variables = os.environ if environment is None else environment
    named = [secret_file, variables.get("DTS_SECRET_FILE")]
    paths = [Path(each).expanduser() for each in named if each]
    paths.append(Path(CREDENTIALS_FILE).expanduser())
    findings = [finding for path in dict.fromkeys(paths) for finding in check_private(path, "credentials")]
    return findings or [ok("credentials", "no file with a secret is in use")]


def check_private(path: Path, check: str, advice: str = "and change the secret") -> Iterator[Finding]:
    """Whether a file is its owner's alone; nothing for one that is not there. `advice` is what to do besides."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        yield bad(check, f"{path}: {error.strerror or error}", "see who owns it, and its folder")
        return
    if mode & 0o077:
        yield bad(check, f"{path} has mode {mode:04o}: others may read it", f"chmod 600 {path}, {advice}")
    else:
        yield ok(check, f"{path} is for its owner alone")


def check_configuration(path: str) -> tuple[list[Finding], Settings | None]:
    """A configuration file with the environment laid over it: whether it is valid, and the files that it names."""
    try:
        settings = load_settings(path)
    except ConfigError as error:
        return [bad("configuration", error.message, "mend the file or the variable that it names")], None
    findings = [ok("configuration", f"{path} is valid")]
    return findings + _check_key_files(settings), settings


async def check_start(config: str) -> list[Finding]:
    """Whether a server could start with a configuration, as `python -m dts.server --check` says."""
    command = [sys.executable, "-m", "dts.server", "-c", config, "--check"]
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, said = await process.communicate()
    findings = []
    for line in said.decode(errors="replace").splitlines():
        part, _, problem = line.partition(": ")
        advise = _ADVISE.get(part)
        if problem == "ok" and advise is not None:
            findings.append(ok(part, "the server could use it"))
        elif advise is not None:
            findings.append(bad(part, problem, advise(problem)))
        elif part == "dts.server":
            findings.append(bad("start", problem, "the server does not start before that is put right"))
    return findings


def check_key_files() -> list[Finding]:
    """The files of a server that is started in this folder without a configuration file; nothing if there are none."""
    try:
        return _check_key_files(load_settings(None))
    except ConfigError:  # of the environment, for which the server will not start
        return []


def _check_key_files(settings: Settings) -> list[Finding]:
    server = settings.server
    secret_advice = "and give the first administrator a new secret: dts-admin rotate"
    return [
        *check_private(server.key_file, "key files", _KEY_ADVICE),
        *check_private(settings.fleet_key_file, "key files", _FLEET_KEY_ADVICE),
        *check_private(server.admin_secret_file, "key files", secret_advice),
    ]


def check_functions(folder: Path) -> list[Finding]:
    """Whether every module in a functions directory could be one: a name that is allowed, Python, a `main`."""
    if not folder.is_dir():
        return [bad("functions", f"{folder} is not a directory", "[worker] functions names the functions directory")]
    findings: list[Finding] = []
    count = 0
    for path in sorted(folder.glob("*/*.py")):
        if path.name.startswith("_"):
            continue
        problem = _problem_of(path)
        if problem:
            findings.append(warning("functions", f"{path}: {problem}", "mend or remove it: its jobs fail"))
        else:
            count += 1
    return [*findings, ok("functions", f"{counted(count, 'function')} in {folder}")]


def check_modules(names: Iterable[str], folder: Path) -> list[Finding]:
    """Whether functions that are registered, and have not been seen to run, are in a functions directory or bundled."""
    missing = [name for name in names if not any((each / f"{name}.py").is_file() for each in (folder, BUNDLED))]
    if not missing:
        return []
    advice = "put the module there, in NAMESPACE/FUNCTION.py, or functions delete NAME: its jobs fail"
    return [warning("modules", f"registered, and not in {folder}: {some(missing)}", advice)]


def _problem_of(path: Path) -> str:
    """Why a module cannot be run as a function; it is read, never imported."""
    try:
        parse_function_name(f"{path.parent.name}/{path.stem}")
        tree = ast.parse(path.read_bytes(), str(path))
    except InvalidName:
        return "its name cannot be a function's"
    except (OSError, SyntaxError, ValueError) as error:
        return f"it cannot be read: {error}"
    return "" if _binds_main(tree) else "it has no main"


def _binds_main(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name="main") | ast.AsyncFunctionDef(name="main") | ast.ClassDef(name="main"):
                return True
            case ast.Name(id="main", ctx=ast.Store()) | ast.alias(asname="main") | ast.alias(name="main", asname=None):
                return True
            case _:
                continue
    return False
