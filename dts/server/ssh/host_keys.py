"""The public keys of hosts: how they are fetched once, written, and compared."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncssh

from dts.errors import HostUnreachable, InvalidInput

_RSA = ("rsa-sha2-512", "rsa-sha2-256")
_PREFERRED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", *_RSA)
"""Algorithms of host keys that a host is asked for, best first."""

FETCH_TIMEOUT = 15.0
"""Seconds that a host may take to show its key."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """A host's public key: `line` is algorithm and key in base64, as in known_hosts behind the names."""

    line: str

    @classmethod
    def parse(cls, text: str) -> HostKey:
        """The key in a line of known_hosts or of a `.pub` file: names before it and a comment behind it are left out.

        Raises:
            InvalidInput: there is no public key, or there are several.
        """
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if len(lines) != 1:
            raise InvalidInput(f"host_key: give one line, such as `ssh-ed25519 AAAA…`, not {len(lines)}")
        words = lines[0].split()
        for at in (0, 1):
            try:
                return cls.of(asyncssh.import_public_key(" ".join(words[at : at + 2])))
            except asyncssh.KeyImportError:
                continue
        raise InvalidInput("host_key: this is no public key of a host: give a line such as `ssh-ed25519 AAAA…`")

    @classmethod
    def of(cls, key: asyncssh.SSHKey) -> HostKey:
        """The key as asyncssh has it."""
        return cls(" ".join(key.export_public_key("openssh").decode().split()[:2]))

    @property
    def key(self) -> asyncssh.SSHKey:
        """The key for asyncssh."""
        return asyncssh.import_public_key(self.line)

    @property
    def algorithms(self) -> list[str]:
        """What to ask a host for: this key's algorithms first, then all others, so that it can show another key."""
        name = self.line.split()[0]
        own = _RSA if name == "ssh-rsa" else (name,)
        return list(dict.fromkeys((*own, *_PREFERRED)))

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -l` shows it."""
        return self.key.get_fingerprint("sha256")


async def fetch_host_key(address: str, port: int) -> HostKey:
    """The key that a host shows now. Nothing proves that it is that host's: a person has to compare the fingerprint.

    Raises:
        HostUnreachable: no ssh server answers there.
    """
    where = f"{address} port {port}"
    try:
        async with asyncio.timeout(FETCH_TIMEOUT):
            key = await asyncssh.get_server_host_key(
                address, port, config=None, tunnel=None, proxy_command=None, server_host_key_algs=list(_PREFERRED)
            )
    except TimeoutError:
        raise HostUnreachable(f"{where} did not show its host key within {FETCH_TIMEOUT:.0f} s") from None
    except (OSError, asyncssh.Error) as error:
        raise HostUnreachable(f"cannot fetch the host key of {where}: {error}") from error
    if key is None:
        raise HostUnreachable(f"{where} showed no host key")
    return HostKey.of(key)
