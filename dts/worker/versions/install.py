"""Installs a version that a server has pushed to this host; run there over ssh, by the DTS of the host.

    python -m dts.worker.versions.install VERSIONS NS/FUNC HASH ARCHIVE [INSTALLER-OPTION …]

The archive is unpacked and its hash checked, its requirements are installed, the module is imported and its
`self_test()` run: all under a temporary name. Only then it gets its place, as a whole, and `current/NS/FUNC` leads to
it, for people. Whatever dies on the way, the next attempt begins anew. The exit status is 0 when the version is there;
what went wrong is on stderr.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from dts.errors import DtsError, ImportFailed
from dts.wire.archive import Source, is_version, unpack, version_of
from dts.wire.function_source import check_function_source, requirements_of
from dts.worker.link.versions import ENVIRONMENTS, VersionFolder, namespace_of
from dts.worker.versions.environment import ensure_environment
from dts.worker.versions.folder import prune_versions, write_version

_TEST_TIMEOUT = 120.0
"""Seconds for the import and `self_test()` together."""

_NO_SELF_TEST = 3  # exit status of dts.worker.child.code.try_out


def main(arguments: list[str]) -> int:
    """Install a version; returns the exit status."""
    versions, function, version, archive, *options = arguments
    os.umask(0o022)  # children of the worker may run as another user
    try:
        install(Path(versions), function, version, Path(archive), options)
    except (DtsError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def install(versions: Path, function: str, version: str, archive: Path, options: list[str]) -> None:
    """Have a version in the folder of versions.

    Raises:
        DtsError: it cannot be one of this host's; the message says why.
        OSError: the host lacks something.
    """
    if not is_version(version):
        raise ImportFailed(f"{version[:80]!r} is not a version")
    folder = VersionFolder(versions.absolute(), version)
    link, namespace = versions.absolute() / "current" / function, namespace_of(function)
    if not folder.has(namespace):
        source = _checked(unpack(archive.read_bytes()), function, version)
        environment = _environment(folder, source, options)
        write_version(folder, namespace, source, environment, lambda place: _try_out(place, function, environment))
        folder.note_error("")
        prune_versions(folder.path.parent)
    elif link.resolve() != folder.path.resolve():  # a worker has fetched it, or it was tried out for another function
        _checked(unpack(archive.read_bytes()), function, version)
        _try_out(folder.functions, function, folder.environment)
    _link(link, folder.path)


def _checked(source: Source, function: str, version: str) -> Source:
    if version_of(source) != version:
        raise ImportFailed(f"what came has another hash than version {version[:12]}")
    check_function_source(source, function)
    return source


def _environment(folder: VersionFolder, source: Source, options: list[str]) -> Path | None:
    if not (requirements := requirements_of(source)):
        return None
    return asyncio.run(ensure_environment(folder.path.parent / ENVIRONMENTS, requirements, options))


def _try_out(functions: Path, function: str, environment: Path | None) -> None:
    """Import a version in a process of its own, and run its self-test. Raises ImportFailed when it does not pass."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dts.worker.child.code.try_out", str(functions), function),
            *([str(environment)] if environment is not None else []),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=_TEST_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise ImportFailed(f"it took more than {_TEST_TIMEOUT:g} s to import and test") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode not in (0, _NO_SELF_TEST):
        said = output.decode(errors="replace").strip()[-1500:]
        raise ImportFailed(f"it does not pass: {said or f'exit status {process.returncode}'}")


def _link(link: Path, target: Path) -> None:
    """Have a link lead to a version, in place of another one in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(8)}.tmp")
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.rename(link)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
