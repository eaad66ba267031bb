"""An environment of Python on a host with this server's DTS in it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from dts.errors import HostError
from dts.server.hosts.plan import Folders, InstallOptions, environment_id, split_credentials
from dts.server.hosts.wheel import Wheel
from dts.server.ssh import SshConnection

LEAST = (3, 11)
_NEWEST = 14

BUILD_TIMEOUT = 1800.0
"""Seconds that an installation may take on a slow host with a slow line."""

_LOOK = (
    "import json, sys; from importlib.util import find_spec as f; "
    "print(json.dumps([list(sys.version_info[:3]), bool(f('venv')), bool(f('ensurepip'))]))"
)

_MARKER = ".complete"
"""The file in an environment that says it was finished: one that a dying server left is made anew."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python on the host."""

    path: str
    version: tuple[int, ...]
    venv: bool
    ensurepip: bool

    @property
    def site_packages(self) -> str:
        """Where packages are in an environment made with it."""
        return f"lib/python{self.version[0]}.{self.version[1]}/site-packages"


async def find_python(ssh: SshConnection, wanted: str) -> Interpreter:
    """The Python to use: the one that was asked for, else the newest on the path.

    Raises:
        HostError: there is none of version 3.11 or later.
    """
    seen = []
    for candidate in [wanted] if wanted else _candidates():
        done = await ssh.run([candidate, "-c", _LOOK])
        if done.status:
            continue
        version, venv, ensurepip = msgspec.json.decode(done.stdout)
        if tuple(version) >= LEAST:
            return Interpreter(candidate, tuple(version), venv, ensurepip)
        seen.append(f"{candidate} is {'.'.join(map(str, version))}")
    found = f" ({', '.join(seen)})" if seen else ""
    raise HostError(
        f"{ssh.host}: there is no Python 3.11 or later{' at ' + wanted if wanted else ''}{found}: install one, such as "
        "apt-get install python3 python3-venv, or name it with python="
    )


def _candidates() -> Iterator[str]:
    yield from (f"python3.{minor}" for minor in range(_NEWEST, LEAST[1] - 1, -1))
    yield "python3"


async def build_environment(
    ssh: SshConnection, folders: Folders, python: Interpreter, wheel: Wheel, options: InstallOptions
) -> tuple[str, bool]:
    """Have an environment with the wheel in it; returns its folder, and whether it was made now.

    Raises:
        HostError: it could not be made; what is there of it is not used.
    """
    name = environment_id(
        wheel.digest, python.path, python.version, options.index_url, options.pip_args, options.packages
    )
    folder = folders.environment(name)
    if await ssh.read(posixpath.join(folder, _MARKER)) is not None:
        return folder, False
    await ssh.run(["rm", "-rf", "--", folder], timeout=BUILD_TIMEOUT, check=True)
    await ssh.make_folder(f"{folders.root}/envs")
    if options.packages:
        await _unpacked(ssh, folder, python, wheel, options.packages)
    else:
        await _installed(ssh, folder, python, wheel, options)
    await ssh.run([f"{folder}/bin/python", "-c", "import dts.worker.command.serve"], timeout=BUILD_TIMEOUT, check=True)
    await ssh.put(name.encode(), posixpath.join(folder, _MARKER))
    return folder, True


async def _unpacked(ssh: SshConnection, folder: str, python: Interpreter, wheel: Wheel, packages: str) -> None:
    """An environment without pip: the wheel unpacked, and a folder with what it needs."""
    make = [python.path, "-m", "venv", "--without-pip", folder]
    await ssh.run(make, timeout=BUILD_TIMEOUT, check=True)
    target = f"{folder}/{python.site_packages}"
    await ssh.put(wheel.body, f"{folder}/{wheel.name}")
    unpack = [f"{folder}/bin/python", "-m", "zipfile", "-e", f"{folder}/{wheel.name}", target]
    await ssh.run(unpack, timeout=BUILD_TIMEOUT, check=True)
    await ssh.put(f"{packages}\n".encode(), f"{target}/dts-packages.pth")


async def _installed(
    ssh: SshConnection, folder: str, python: Interpreter, wheel: Wheel, options: InstallOptions
) -> None:
    """An environment with the wheel and what it needs, from an index."""
    uv = not (python.venv and python.ensurepip)
    if uv and (await ssh.run(["uv", "--version"])).status:
        raise HostError(f"{ssh.host}: {python.path} cannot make environments: apt-get install python3-venv, or uv")
    make = ["uv", "venv", "--python", python.path, folder] if uv else [python.path, "-m", "venv", folder]
    await ssh.run(make, timeout=BUILD_TIMEOUT, check=True)
    await ssh.put(wheel.body, f"{folder}/{wheel.name}")
    await ssh.put(wheel.constraints.encode(), f"{folder}/constraints.txt")
    inside = f"{folder}/bin/python"
    pip = ["uv", "pip", "install", "--python", inside] if uv else [inside, "-m", "pip", "install", "--no-input"]
    index = ["--index-url", options.index_url] if options.index_url else []
    words, confidential = split_credentials([*index, *options.pip_args])
    if confidential:
        await ssh.put(confidential.encode(), f"{folder}/indexes.txt", mode=0o600)
        words += ["--requirement", f"{folder}/indexes.txt"]
    argv = [*pip, "--quiet", "--constraint", f"{folder}/constraints.txt", *words]
    await ssh.run([*argv, f"{folder}/{wheel.name}"], timeout=BUILD_TIMEOUT, check=True)
