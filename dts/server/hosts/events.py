"""What is reported while hosts are worked on, as it happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct


class HostEvent(Struct, frozen=True, omit_defaults=True):
    """Something that happened on a host: output of a command, a step of several, or the end of the work there.

    `status` is an exit status; `state` says how a step or the whole went.
    """

    host: str
    event: Literal["output", "step", "end"]
    step: str = ""
    state: Literal["", "done", "unchanged", "failed"] = ""
    stream: Literal["", "stdout", "stderr"] = ""
    text: str = ""
    status: int | None = None
    seconds: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the work on the host ended without success."""
        return self.event == "end" and (self.state == "failed" or self.status not in (None, 0))


Report = Callable[[HostEvent], None]
