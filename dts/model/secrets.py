"""Secrets of a namespace, as its functions get them."""

from __future__ import annotations

from dataclasses import dataclass

COLLECTION = "secrets"
"""The collection of documents that has all secrets of a namespace under its name, encrypted for workers."""

HEADER = "secrets"
"""The header of a message that has them."""

MAX_OF_NAMESPACE = 32 * 1024
"""Bytes of all secrets of a namespace together: they travel in a header, which RabbitMQ limits."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret of a namespace: `id` is `namespace/NAME`. `secret` is encrypted as users' keys are."""

    id: str
    namespace: str
    secret: bytes = b""
    description: str = ""
    created: float = 0.0
    modified: float = 0.0
    version: int = 1

    @property
    def name(self) -> str:
        """Its name within the namespace."""
        return self.id.partition("/")[2]
