"""The registered functions, their namespaces, and how fast they are."""

from __future__ import annotations

import ast
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

import dts
from dts.errors import DuplicateKey, InvalidName
from dts.model import RESERVED_NAMESPACE, Function, Namespace, parse_function_name
from dts.model.secrets import COLLECTION
from dts.server import plugins
from dts.server.lookup.cache import Cache
from dts.store import Store

logger = logging.getLogger(__name__)

BUNDLED = Path(dts.__file__).parent / "worker" / "functions"
"""The functions that come with DTS. Read as text: the server never imports a function."""

_CACHE_SECONDS = 2.0


class _Secrets(NamedTuple):
    """The secrets of a namespace, encrypted for workers; empty for none, which is remembered as well."""

    text: str


class Catalogue:
    """Looks functions up. Speeds come with events, faster than the record is read anew.

    `folder` is a functions directory whose functions are registered without an administrator, when the server starts
    or when one is first asked for; None for none.
    """

    def __init__(self, store: Store, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder
        self._functions: Cache[Function] = Cache(self._load_function, _CACHE_SECONDS)
        self._namespaces: Cache[Namespace] = Cache(self._load_namespace, _CACHE_SECONDS)
        self._secrets: Cache[_Secrets] = Cache(self._load_secrets, _CACHE_SECONDS)
        self._speeds: dict[str, tuple[float, bool]] = {}

    async def get(self, name: str) -> Function | None:
        """The function of that name with its latest speed, or None if none is registered."""
        if (plugin := plugins.function(name)) is not None:
            return plugin
        function = await self._functions.get(name)
        if function is not None and (speed := self._speeds.get(name)) is not None:
            function = replace(function, mean_duration=speed[0], concurrent=speed[1])
        if function is not None and (secrets := await self._secrets.get(function.namespace)):
            function = replace(function, secrets=secrets.text)
        return function

    async def namespace(self, name: str) -> Namespace | None:
        """The namespace of that name, or None."""
        return await self._namespaces.get(name)

    async def _load_function(self, name: str) -> Function | None:
        function = await self._store.get_function(name)
        if function is None and self._folder is not None:
            namespace, stem = parse_function_name(name)
            if fresh := _function_in(self._folder / namespace / f"{stem}.py"):
                await self._register([fresh], f"Of {self._folder}.")
                return await self._store.get_function(name)
        return function

    async def _load_namespace(self, name: str) -> Namespace | None:
        return await self._store.get_record(Namespace, name)

    async def _load_secrets(self, namespace: str) -> _Secrets:
        found = await self._store.get_document(COLLECTION, namespace, body=True)
        return _Secrets(found.body.decode() if found is not None else "")

    def forget_secrets(self, namespace: str) -> None:
        """Read the secrets of a namespace anew: somebody has changed them just now."""
        self._secrets.forget(namespace)

    def forget(self, record_id: str) -> None:
        """Read a function, or a namespace, anew: somebody has changed it just now."""
        self._functions.forget(record_id)
        self._namespaces.forget(record_id)

    def on_speeds(self, payload: str) -> None:
        """Take in an event of the topic `speeds`."""
        self._speeds.update(msgspec.json.decode(payload, type=dict[str, tuple[float, bool]]))

    async def register_folders(self) -> None:
        """Register the functions that come with DTS, those of `folder`, and their namespaces.

        Each is registered once: one that an administrator deletes stays deleted.
        """
        await self._register(list(functions_in(BUNDLED)), "Comes with DTS.")
        if self._folder is not None:
            await self._register(list(functions_in(self._folder)), f"Of {self._folder}.")

    async def _register(self, functions: Sequence[Function], description: str) -> None:
        seeded = await self._store.list_seeded()
        fresh = [function for function in functions if function.name not in seeded]
        for function in fresh:
            namespace = Namespace(function.namespace, description, created=function.created, modified=function.created)
            with suppress(DuplicateKey):  # it is there, or another server was first
                await self._store.add_record(namespace)
            with suppress(DuplicateKey):
                await self._store.add_function(function)
        # Last: cut off before, the next start finds some of them there already, and none is missing.
        if fresh:
            await self._store.note_seeded([function.name for function in fresh])


def functions_in(folder: Path) -> Iterator[Function]:
    """The functions in a folder `<namespace>/<function>.py`, described by the first line of their docstrings."""
    for path in sorted(folder.glob("*/*.py")):
        if function := _function_in(path):
            yield function


def _function_in(path: Path) -> Function | None:
    """The function in a file; None if the file is missing, has no `main`, or a name that no function may have."""
    try:
        name = parse_function_name(f"{path.parent.name}/{path.stem}")  # not so __init__.py, or helpers such as _db.py
        module = ast.parse(path.read_bytes())
    except (InvalidName, FileNotFoundError):
        return None
    except (OSError, SyntaxError, ValueError) as error:
        logger.warning("%s is not registered as a function: %s", path, error)
        return None
    if name.namespace == RESERVED_NAMESPACE or not _names(module) & {"main", "main_many"}:
        return None
    docstring, now = ast.get_docstring(module) or "", round(time.time(), 6)
    return Function(str(name), description=docstring.partition("\n")[0], created=now, modified=now)


def _names(module: ast.Module) -> set[str]:
    """What the statements of a module name: functions, values, imports."""
    names: set[str] = set()
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
    return names
