"""Parquet: each row is a call with its columns as keyword arguments. pyarrow reads it, which need not be installed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from importlib import import_module
from typing import Any

import msgspec

from dts.client.components import STANDARD_STREAM, Batch, FileComponent
from dts.client.threads import in_thread
from dts.errors import ClientError, ConfigError

_ROWS = 512  # that are converted at once
_encode = msgspec.json.Encoder(decimal_format="string").encode


class ParquetFileIOComponent(FileComponent):
    """Rows of a Parquet file. A row is a line; times become ISO 8601, bytes base64, decimals strings, NaN null.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self._library = _load_pyarrow()

    def open(self) -> None:
        """Open the file.

        Raises:
            ClientError: it is missing, not readable, or no file that can be read in any order.
        """
        super().open()
        if self.path == STANDARD_STREAM or self.identity is None or len(self.identities) != 1:
            self.close()
            raise ClientError(f"cannot read {self.name} as Parquet: it must be one file, no pipe or directory")

    async def batches(self, max_line: int) -> AsyncGenerator[Batch, None]:
        """All rows of the file; one of more than `max_line` bytes is bad.

        Raises:
            ClientError: it is no Parquet file, or damaged.
        """
        self.open()
        try:
            file = await self._call(lambda: self._library.ParquetFile(self.path))
            groups: Iterator[Any] = iter(file.iter_batches(batch_size=_ROWS))
            while (rows := await self._call(lambda: _next_rows(groups))) is not None:
                done = min(1.0, len(rows) / max(1, file.metadata.num_rows))
                self.bytes_read += round((self.bytes_total or 0) * done)
                yield _batch(rows, max_line)
        finally:
            self.close()

    def parse(self, data: bytes, lines: list[bytes]) -> Batch:
        """Not used: a row is no line of bytes."""
        raise NotImplementedError

    async def _call(self, call: Any) -> Any:
        try:
            return await in_thread(call)
        except (OSError, ValueError) as error:  # pyarrow's own are of one of these
            raise ClientError(f"cannot read {self.name} as Parquet: {error}") from error


def _load_pyarrow() -> Any:
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(f"Parquet needs pyarrow: pip install 'dts-scheduler[parquet]' ({error})") from error


def _next_rows(groups: Iterator[Any]) -> list[dict[str, Any]] | None:
    group = next(groups, None)
    return None if group is None else group.to_pylist()


def _batch(rows: list[dict[str, Any]], max_line: int) -> Batch:
    kwargs: list[bytes] = []
    bad: dict[int, str] = {}
    for position, row in enumerate(rows):
        try:
            encoded = _encode(row)
        except (TypeError, ValueError, OverflowError) as error:
            encoded, bad[position] = b"", f"the row is no JSON: {error}"
        if len(encoded) > max_line:
            encoded, bad[position] = b"", f"the row is over the limit of {max_line} bytes"
        kwargs.append(encoded)
    return Batch([b""] * len(rows), kwargs, bad)
