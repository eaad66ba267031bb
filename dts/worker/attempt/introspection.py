"""Inspects exceptions and types of a user's code without running that code, or survives what that code does.

A class can compute its name, its module or its `__class__`, and a text can be of a subclass of `str` that overrides
methods. So types are read through the descriptors of `type` itself, and texts are converted to plain `str`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, cast

_name, _qualname, _module, _mro = (type.__dict__[f"__{name}__"] for name in ("name", "qualname", "module", "mro"))
_trace, _cause, _context = (BaseException.__dict__[f"__{name}__"] for name in ("traceback", "cause", "context"))
FUNCTIONS = "dts.worker.functions."
"""What the full name of a function's module begins with."""


def is_a(value: object, *kinds: type) -> bool:
    """Whether a value is of one of these types, which are plain classes, whatever its `__class__` claims."""
    return issubclass(type(value), kinds)


def plain(text: str) -> str:
    """A text as a plain `str`, without the methods of a subclass."""
    return str.__str__(text)


def name_of(kind: type) -> str:
    """The name of a type."""
    return plain(_name.__get__(kind))


def full_name(kind: type) -> str:
    """The name of a type with its module (of a function's module `ns.func`); of a built-in type the name alone."""
    qualname, module = plain(_qualname.__get__(kind)), _module.__get__(kind)
    if not is_a(module, str) or module == "builtins":
        return qualname
    return f"{plain(module).removeprefix(FUNCTIONS)}.{qualname}"


def bases_of(kind: type) -> Sequence[type]:
    """A type and all types that it derives from."""
    return cast(Sequence[type], _mro.__get__(kind))


def names_of(kind: type) -> set[str]:
    """The names of a type and of its bases: alone, with the module, and as errors show them."""
    names = set()
    for base in bases_of(kind):
        module = _module.__get__(base)
        names |= {name_of(base), full_name(base)}
        if is_a(module, str):
            names.add(f"{plain(module)}.{plain(_qualname.__get__(base))}")
    return names


def text_of(error: BaseException) -> str:
    """The message of an exception; when its `__str__` fails, a text that says so."""
    try:
        return plain(str(error))
    except BaseException as broken:  # noqa: BLE001 - the exception's own code runs here, and it may do anything
        return f"its message cannot be shown: {name_of(type(broken))}"


def show(error: BaseException) -> str:
    """An exception as one line: type and message."""
    return f"{full_name(type(error))}: {text_of(error)}"


def traceback_of(error: BaseException) -> TracebackType | None:
    """The traceback of an exception."""
    return cast("TracebackType | None", _trace.__get__(error))


def cause_of(error: BaseException) -> BaseException | None:
    """The cause of an exception, else the exception that was being handled when it was raised."""
    return cast("BaseException | None", _cause.__get__(error) or _context.__get__(error))


def forget_traceback(error: BaseException) -> None:
    """Release the frames that an exception keeps, and the objects in them."""
    setter: Any = _trace
    setter.__set__(error, None)
