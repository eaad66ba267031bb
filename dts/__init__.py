"""DTS: a distributed task scheduler. A file of lines, a function, a fleet of workers, one result per line.

import dts

for row in dts.map("text/upper", ["one", "two"]):
    print(row["line"], row["result"])
print(dts.submit("math/add", 1, 2).result())
"""

from importlib import import_module
from typing import Any

from dts.version import __version__

_FROM_CLIENT = {"map": "map_lines", "map_frame": "map_frame", "submit": "submit"}

__all__ = ["__version__", *_FROM_CLIENT]  # noqa: PLE0604 - all are texts


def __getattr__(name: str) -> Any:
    """What is imported only when it is used: a server or a worker's child has no need of the client."""
    if name not in _FROM_CLIENT:
        raise AttributeError(f"module 'dts' has no attribute {name!r}")
    return getattr(import_module("dts.client.simple"), _FROM_CLIENT[name])
