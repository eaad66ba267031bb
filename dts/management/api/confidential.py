"""Secrets on the way to the server: over TLS, or not past this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dts.client.transport import Transport
from dts.errors import InvalidInput

_SECRET_FIELDS = frozenset({"secret", "ssh_key", "ssh_pem_cert", "ssh_passphrase"})
"""Fields whose values go to the server as they are; everything else about a secret is a signature made with it."""


class ConfidentialTransport(Transport):
    """A transport that sends no secret in the clear to another machine, unless it is `insecure`."""

    insecure = False

    async def call(self, method: str, path: str, params: object = None, **how: Any) -> Any:
        """Make a request, as Transport does.

        Raises:
            InvalidInput: anybody on the way could read the secret in it.
        """
        exposed = not (self.insecure or self.local or self.server_url.lower().startswith("https:"))
        if exposed and isinstance(params, Mapping) and (secrets := _SECRET_FIELDS & params.keys()):
            raise InvalidInput(
                f"this would send {', '.join(sorted(secrets))} over http to another machine, readable on the way: "
                f"use https instead of {self.server_url}, or --insecure if you trust the network"
            )
        return await super().call(method, path, params, **how)
