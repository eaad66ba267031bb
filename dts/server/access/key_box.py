"""The server's key file, and what is encrypted with it."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dts.errors import ConfigError
from dts.runtime.private_files import create_private

logger = logging.getLogger(__name__)

_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyBox:
    """Encrypts signing keys and other secrets with the server's key file (AES-256-GCM).

    What is sealed is bound to its *place*, such as `users/alice`: put into another record, it cannot be unsealed, so
    that write access to the store alone does not give one user the key of another.
    """

    def __init__(self, key: bytes) -> None:
        if len(base64.b64decode(key, altchars=b"-_", validate=True)) != _KEY_BYTES:
            raise ValueError(f"it must hold {_KEY_BYTES} bytes in base64")
        self._key = key
        self._cipher = AESGCM(self.derive("seal"))

    @classmethod
    def open(cls, path: Path) -> KeyBox:
        """The box of a key file; the file is made, for its owner alone, if there is none.

        Raises:
            ConfigError: the file cannot be read or made, or does not hold a key.
        """
        try:
            if create_private(path, base64.urlsafe_b64encode(os.urandom(_KEY_BYTES))):
                logger.info("made the server's key file %s: further servers of this store need a copy of it", path)
            return cls(path.read_bytes().strip())
        except (OSError, ValueError, binascii.Error) as error:
            raise ConfigError(f"the server's key file {path} cannot be used: {error}") from error

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for a purpose, which tells nothing of the key file, nor of another purpose's key."""
        return hmac.digest(self._key, b"dts-" + purpose.encode(), "sha256")

    def seal(self, secret: bytes, place: str) -> bytes:
        """A secret as the store may see it."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, place.encode())

    def unseal(self, sealed: bytes, place: str) -> bytes:
        """The secret.

        Raises:
            ConfigError: it was sealed with another key file, or for another place.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise ConfigError(
                f"the key of {place} in the store was encrypted with another key file, or for another record: start "
                "the server with the key file that this store was first used with ([server] key_file)"
            ) from error
