"""What a child gets at its start: its options, and its file descriptors."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from dts.config import WorkerSettings


class ChildOptions(msgspec.Struct, frozen=True):
    """The worker's name and settings, sent to a child at its start."""

    name: str
    settings: WorkerSettings


class Descriptors(NamedTuple):
    """The file descriptors that a child inherits."""

    socket: int
    board: int
    lifeline: int
    output: int
