"""Functions that run inside the server, for administrators alone: `server/<plugin>`.

A plugin is a module in this package with `async def main(context, *args, **kwargs)`; the first line of its docstring
describes it. It may run more than once for one job, like any function: a server that dies at it leaves the job to
another one. What it returns is JSON; what it raises makes its job fail.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from typing import Any, cast

from dts.errors import FunctionMissing
from dts.model import RESERVED_NAMESPACE, Function

ROUTE = RESERVED_NAMESPACE
"""The route of plugins' jobs, which the servers themselves serve."""

Main = Callable[..., Awaitable[Any]]

_NAMES = frozenset(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def names() -> list[str]:
    """All plugins."""
    return sorted(_NAMES)


def function(name: str) -> Function | None:
    """The plugin of a function's name as a function like any other; None if it is no plugin's."""
    namespace, _, plugin = name.partition("/")
    if namespace != RESERVED_NAMESPACE or plugin not in _NAMES:
        return None
    return Function(name, f"Runs inside the server: {plugin}.", ROUTE)


def load(name: str) -> Main:
    """The `main` of the plugin with a function's name.

    Raises:
        FunctionMissing: there is no such plugin.
    """
    if function(name) is None:
        raise FunctionMissing(f"there is no plugin {name}: this server has {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name.partition('/')[2]}")
    return cast(Main, module.main)
