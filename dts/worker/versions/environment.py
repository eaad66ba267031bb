"""Virtual environments for versions with requirements: made once for each set of requirements, by uv or by pip.

Packages are installed as wheels only, since building one from its source would run its code as the worker's own user.
What DTS itself has loaded in every child stays as it is: requirements that contradict it are refused by the installer.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from dts.errors import ImportFailed

logger = logging.getLogger(__name__)

_TIMEOUT = 1200.0
"""Seconds for all packages: the largest wheels there are take minutes on a slow line."""

_LOCK_EVERY = 0.2
"""Seconds between looks whether the lock is free: flock can be waited for in a thread only."""

_COMPLETE = ".dts-complete"
"""The file that an environment has when all is installed."""

_LOADED = """
import sys, dts.worker.child.template
from importlib import metadata
owners = metadata.packages_distributions()
tops = {name.partition(".")[0] for name in sys.modules}
found = {owner for top in tops for owner in owners.get(top, ())}
print("\\n".join(f"{each}=={metadata.version(each)}" for each in sorted(found) if each != "dts-scheduler"))
"""


def environment_key(requirements: bytes) -> str:
    """What names the environment of these requirements for this Python."""
    about = f"{platform.python_implementation()} {sys.version} {platform.machine()}\n"
    return hashlib.sha256(about.encode() + requirements).hexdigest()[:32]


async def ensure_environment(folder: Path, requirements: bytes, arguments: Sequence[str]) -> Path:
    """The environment with these requirements in a folder, made if it is not there; `arguments` are the installer's.

    Raises:
        ImportFailed: it cannot be made; the message has the end of what the installer said.
    """
    place = folder / environment_key(requirements)
    if (place / _COMPLETE).exists():
        return place
    try:
        with await _lock(place):
            if not (place / _COMPLETE).exists():
                await _make(place, requirements, arguments)
    except OSError as error:
        raise ImportFailed(f"the environment {place} cannot be made: {error}") from error
    return place


async def _make(place: Path, requirements: bytes, arguments: Sequence[str]) -> None:
    logger.info("making the environment %s: %s", place, ", ".join(requirements.decode(errors="replace").split("\n")))
    await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
    wanted, fixed = place.with_suffix(".requirements"), place.with_suffix(".constraints")
    wanted.write_bytes(requirements)
    fixed.write_text(await _run([sys.executable, "-c", _LOADED]))
    python = str(place / "bin/python")
    install = ["--only-binary", ":all:", "-r", str(wanted), "-c", str(fixed), *arguments]
    if uv := shutil.which("uv"):
        await _run([uv, "venv", "--quiet", "--python", sys.executable, str(place)])
        await _run([uv, "pip", "install", "--quiet", "--python", python, *install])
    elif importlib.util.find_spec("pip") is not None:
        await _run([sys.executable, "-m", "venv", "--without-pip", str(place)])
        await _run([sys.executable, "-m", "pip", "--python", python, "install", *_PIP, *install])
    else:
        await _run([sys.executable, "-m", "venv", str(place)])
        await _run([python, "-m", "pip", "install", *_PIP, *install])
    (place / _COMPLETE).touch()


_PIP = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-warn-script-location")


async def _run(command: Sequence[str]) -> str:
    """What a command prints. Raises ImportFailed when it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith(("DTS_", "PYTHONPATH"))},
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, errors = await process.communicate()
    except TimeoutError:
        raise ImportFailed(f"its requirements could not be installed within {_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = errors.decode(errors="replace").strip()[-2000:]
        raise ImportFailed(f"its requirements cannot be installed: {said}")
    return output.decode()


async def _lock(place: Path) -> BinaryIO:
    """A file that is locked until it is closed: nobody else on this host makes the same environment meanwhile.

    Who waits holds no thread: whoever has the lock may need one to go on.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    file = place.with_suffix(".lock").open("ab")
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(_LOCK_EVERY)
            else:
                return file
    except BaseException:
        file.close()
        raise
