"""Texts that servers hand to workers through the store and the broker, encrypted with a key of the fleet's.

AES-256-GCM, bound to a place such as a namespace: what was encrypted for one cannot be opened for another.
"""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dts.errors import WireError
from dts.wire.seal import Seal

_NONCE = 12  # bytes


def encrypt(seal: Seal, place: str, plain: bytes) -> str:
    """What only processes with the fleet's key can read, as text for a header."""
    nonce = os.urandom(_NONCE)
    sealed = _ciphers(seal)[0].encrypt(nonce, plain, place.encode())
    return base64.b64encode(nonce + sealed).decode()


def decrypt(seal: Seal, place: str, text: str) -> bytes:
    """What was encrypted for a place with one of the fleet's keys.

    Raises:
        WireError: it was altered, encrypted with another key, or for another place.
    """
    try:
        sealed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("an encrypted text is not in base64") from error
    for cipher in _ciphers(seal):
        try:
            return bytes(cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], place.encode()))
        except (InvalidTag, ValueError):
            continue
    raise WireError(f"an encrypted text for {place} was altered, or encrypted with another fleet's key")


def _ciphers(seal: Seal) -> list[AESGCM]:
    return [AESGCM(bytes.fromhex(key)[:32]) for key in seal.derive("confidential")]
