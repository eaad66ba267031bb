"""Single jobs that this server has just accepted: whoever asks for one next spares the store three reads."""

from __future__ import annotations

from collections.abc import Iterable

from cachetools import TTLCache

from dts.model import Block, Run

_SIZE = 1000
_SECONDS = 60.0
_MAX_JOBS = 16
_MAX_BODY = 16 * 1024  # bytes


class Recent:
    """Remembers small blocks with their runs, as far as they never change. Any server can answer without it."""

    def __init__(self) -> None:
        self._entries: TTLCache[str, tuple[Run, Block]] = TTLCache(_SIZE, _SECONDS)

    def add(self, run: Run, blocks: Iterable[Block]) -> None:
        """Remember blocks of a run that are in the store now, if they are small."""
        for block in blocks:
            if block.count <= _MAX_JOBS and len(block.body) <= _MAX_BODY:
                self._entries[block.id] = run, block

    def get(self, block_id: str) -> tuple[Run, Block] | None:
        """The run and the block as they were accepted; what changes (state, published) is to be read anew."""
        return self._entries.get(block_id)
