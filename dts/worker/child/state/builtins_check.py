"""Checks the parts of the interpreter that the child itself relies on: builtins, and modules that nearly all code uses.

A function that replaces one of them can break the child. References to the replacement cannot all be found, so the
process is not repaired but replaced. Adding to a module is harmless; libraries do that with builtins.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_WATCHED = (
    *("builtins", "asyncio", "collections", "functools", "importlib", "io", "json", "json.decoder", "json.encoder"),
    *("os", "posixpath", "re", "signal", "subprocess", "threading", "time"),
)


class BuiltinsCheck:
    """The parts as they are now. A comparison takes about 20 µs."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = dict(sys.modules)
        self._known = self._modules
        watched = [(name, sys.modules[name]) for name in _WATCHED if name in sys.modules]
        self._contents: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
            (name, vars(module), dict(vars(module))) for name, module in watched
        ]
        self._all_modules = sys.modules

    def examine(self) -> str:
        """Returns what a function has replaced or removed, in words; empty for nothing."""
        modules = sys.modules
        if modules is not self._all_modules:
            return "a function replaced sys.modules"
        if modules != self._known and (changed := self._changed_modules()):
            return f"a function removed or replaced the module {changed}"
        for at, (name, now, before) in enumerate(self._contents):
            if now != before:
                if changed := _replaced(before, now):
                    return f"a function replaced {name}.{changed}"
                self._contents[at] = name, now, dict(now)
        return ""

    def _changed_modules(self) -> str:
        """The name of a module that was replaced or removed; empty if modules were only added."""
        modules: dict[str, Any] = dict(sys.modules)
        for name, module in self._modules.items():
            if modules.get(name) is not module:
                return name
        for name, found in modules.items():
            if found is None:
                return name
        self._known = modules
        return ""


def _replaced(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The name of a callable that was replaced; other values of a module may change."""
    for name, value in before.items():
        if now.get(name) is not value and callable(value):
            return name
    return ""
