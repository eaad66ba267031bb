"""The registered functions, their namespaces, and how fast they are."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

import dts
from dts.errors import DuplicateKey, InvalidName
from dts.model import Function, Namespace, parse_function_name
from dts.server import plugins
from dts.server.lookup.cache import Cache
from dts.store import Store

BUNDLED = Path(dts.__file__).parent / "worker" / "functions"
"""The functions that come with DTS. Read as text: the server never imports a function."""

_CACHE_SECONDS = 2.0


class Catalogue:
    """Looks functions up. Speeds come with events, faster than the record is read anew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._functions: Cache[Function] = Cache(store.get_function, _CACHE_SECONDS)
        self._namespaces: Cache[Namespace] = Cache(self._load_namespace, _CACHE_SECONDS)
        self._speeds: dict[str, tuple[float, bool]] = {}

    async def get(self, name: str) -> Function | None:
        """The function of that name with its latest speed, or None if none is registered."""
        if (plugin := plugins.function(name)) is not None:
            return plugin
        function = await self._functions.get(name)
        if function is not None and (speed := self._speeds.get(name)) is not None:
            function = replace(function, mean_duration=speed[0], concurrent=speed[1])
        return function

    async def namespace(self, name: str) -> Namespace | None:
        """The namespace of that name, or None."""
        return await self._namespaces.get(name)

    async def _load_namespace(self, name: str) -> Namespace | None:
        return await self._store.get_record(Namespace, name)

    def forget(self, record_id: str) -> None:
        """Read a function, or a namespace, anew: somebody has changed it just now."""
        self._functions.forget(record_id)
        self._namespaces.forget(record_id)

    def on_speeds(self, payload: str) -> None:
        """Take in an event of the topic `speeds`."""
        self._speeds.update(msgspec.json.decode(payload, type=dict[str, tuple[float, bool]]))

    async def register_bundled(self) -> None:
        """Register the functions that come with DTS and their namespaces, each once: who deletes one is rid of it."""
        seeded = await self._store.list_seeded()
        fresh = [function for function in bundled_functions(BUNDLED) if function.name not in seeded]
        for function in fresh:
            comes_with = Namespace(
                function.namespace, "Comes with DTS.", created=function.created, modified=function.created
            )
            with suppress(DuplicateKey):  # it is there, or another server was first
                await self._store.add_record(comes_with)
            with suppress(DuplicateKey):
                await self._store.add_function(function)
        # Last: cut off before, the next start finds some of them there already, and none is missing.
        if fresh:
            await self._store.note_seeded([function.name for function in fresh])


def bundled_functions(folder: Path) -> Iterator[Function]:
    """The functions in a folder `<namespace>/<function>.py`, described by the first line of their docstrings."""
    now = round(time.time(), 6)
    for path in sorted(folder.glob("*/*.py")):
        try:
            name = str(parse_function_name(f"{path.parent.name}/{path.stem}"))
        except InvalidName:
            continue  # __init__.py, and helpers whose names start with an underscore
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        yield Function(name, description=docstring.partition("\n")[0], created=now, modified=now)
