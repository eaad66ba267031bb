"""What is done to the lines of any input: the first ones only, arguments that all calls share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from dts.client.components import Batch, DataSource

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ShapedSource:
    """The lines of `source`: the first `head` ones unless it is None, each called with `kwargs`, too.

    A line's own keyword argument goes before one of these.
    """

    def __init__(self, source: DataSource, *, head: int | None = None, kwargs: Mapping[str, Any] | None = None) -> None:
        self._source = source
        self._head = head
        self._kwargs = dict(kwargs or {})
        self._encoded = _encode(self._kwargs)

    @property
    def bytes_read(self) -> int:
        """How much of the input was read."""
        return self._source.bytes_read

    @property
    def bytes_total(self) -> int | None:
        """How much there is; None when it is not known, or not all of it is read."""
        return None if self._head is not None else self._source.bytes_total

    async def batches(self, max_line: int) -> AsyncGenerator[Batch, None]:
        """The lines, in order."""
        left = self._head
        async with aclosing(self._source.batches(max_line)) as batches:
            async for batch in batches:
                some = batch if left is None or len(batch.args) <= left else _first(batch, left)
                if some.args:
                    yield self._with_kwargs(some) if self._kwargs else some
                if left is not None and (left := left - len(some.args)) <= 0:
                    return

    def _with_kwargs(self, batch: Batch) -> Batch:
        if batch.kwargs is None:
            return Batch(batch.args, [self._encoded] * len(batch.args), batch.bad)
        own = (_encode({**self._kwargs, **_decode(each)}) if each else self._encoded for each in batch.kwargs)
        kwargs = [b"" if position in batch.bad else each for position, each in enumerate(own)]
        return Batch(batch.args, kwargs, batch.bad)


def _first(batch: Batch, count: int) -> Batch:
    kwargs = None if batch.kwargs is None else batch.kwargs[:count]
    return Batch(batch.args[:count], kwargs, {at: reason for at, reason in batch.bad.items() if at < count})
