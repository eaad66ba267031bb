"""What a host is logged in to with: the private keys and certificates in its record, decrypted in memory only."""

from __future__ import annotations

import re
from collections.abc import Iterator

import asyncssh

from dts.errors import InvalidInput, LoginRefused
from dts.model import VirtualHost
from dts.server.access.key_box import KeyBox

_PRIVATE = re.compile(r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_CERTIFICATE = re.compile(r"^\S+-cert-v0[01]@openssh\.com [A-Za-z0-9+/=]+.*$", re.MULTILINE)

SECRET_FIELDS = ("ssh_key", "ssh_pem_cert", "ssh_passphrase")
"""The fields of a host that are encrypted in the store and never answered."""

KeyPair = asyncssh.SSHKey | tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]


def read_keys(texts: list[str], passphrase: str = "") -> list[KeyPair]:
    """The private keys in some texts, each with the OpenSSH certificate that was issued for it, if there is one.

    Raises:
        InvalidInput: there is no private key, or one that cannot be read. The message has nothing of the texts.
    """
    whole = "\n".join(texts).replace("\r\n", "\n")
    keys = [_private_key(found.group(), passphrase) for found in _PRIVATE.finditer(whole)]
    if not keys:
        raise InvalidInput("ssh_pem_cert: there is no private key in it: give the text of a file such as id_ed25519")
    certificates = {certificate.key.public_data: certificate for certificate in _certificates(whole)}
    return [(key, certificates[key.public_data]) if key.public_data in certificates else key for key in keys]


def _private_key(text: str, passphrase: str) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_private_key(text, passphrase or None)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        if "assphrase" in str(error) or isinstance(error, asyncssh.KeyEncryptionError):
            message = "ssh_pem_cert: the private key is encrypted: give its passphrase as ssh_passphrase"
            raise InvalidInput(message if not passphrase else "ssh_passphrase: it does not open the key") from None
        raise InvalidInput("ssh_pem_cert: the private key in it cannot be read") from None


def _certificates(text: str) -> Iterator[asyncssh.SSHCertificate]:
    for found in _CERTIFICATE.finditer(text):
        try:
            yield asyncssh.import_certificate(found.group())
        except asyncssh.KeyImportError:
            raise InvalidInput("ssh_pem_cert: the certificate in it cannot be read") from None


def keys_of(host: VirtualHost, box: KeyBox) -> list[KeyPair]:
    """The keys of a host's record.

    Raises:
        LoginRefused: it has none, or they cannot be read.
        ConfigError: they were encrypted with another key file.
    """
    opened = {
        name: box.unseal(sealed, f"vhosts/{host.id}/{name}").decode()
        for name in SECRET_FIELDS
        if (sealed := getattr(host, name))
    }
    passphrase = opened.pop("ssh_passphrase", "").rstrip("\r\n")  # as a file has them at its end
    if not opened:
        raise LoginRefused(f"the host {host.id} has no ssh key: vhosts update {host.id} ssh_pem_cert=@FILE")
    try:
        return read_keys(list(opened.values()), passphrase)
    except InvalidInput as error:
        raise LoginRefused(f"the ssh key of the host {host.id} cannot be used: {error}") from error
