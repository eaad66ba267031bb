"""Pushes a version of a function to one host: the archive by SFTP, then the host's own DTS installs it."""

from __future__ import annotations

from dts.errors import HostError
from dts.server.hosts.install import FOLDER
from dts.server.hosts.plan import Folders, read_options
from dts.server.ssh import SshConnection
from dts.wire.archive import SHORT

INSTALL_TIMEOUT = 1500.0
"""Seconds for the installation on a host, with all packages that the version requires."""

_NO_PYTHON = 127  # exit status of timeout(1) for a command that is not there


async def push(ssh: SshConnection, function: str, version: str, archive: bytes) -> None:
    """Have a version on a host, below the folder that DTS has there; a repeat changes nothing.

    Raises:
        HostUnreachable: the connection was lost; the version is there as a whole or not at all.
        HostError: the host refuses the version, or has no DTS; the message says why.
    """
    folders = Folders(f"{await ssh.home()}/{FOLDER}")
    versions = f"{folders.root}/var/versions"
    await ssh.make_folder(versions)
    path = f"{versions}/.{version}.zip"
    await ssh.put(archive, path)
    command = [f"{folders.current}/bin/python", "-m", "dts.worker.versions.install", versions, function, version, path]
    if index := read_options(await ssh.read(folders.options)).index_url:  # the host may reach no other
        command += ["--index-url", index]
    done = await ssh.run(command, timeout=INSTALL_TIMEOUT)
    await ssh.run(["rm", "-f", path])
    if done.status == _NO_PYTHON:
        raise HostError(f"there is no DTS in {folders.root}: dts-admin vhosts init brings the host into service")
    if done.timed_out:
        raise HostError(f"the installation of version {version[:SHORT]} took more than {INSTALL_TIMEOUT:g} s")
    if done.status:
        raise HostError(done.complaint() or f"the installation ended with status {done.status}")
