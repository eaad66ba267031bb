"""Questions about exceptions and types of a user's code that run none of that code, or bear what it does.

A class may answer for its name, its module or its `__class__` by code of its own, and a text may be of a subclass of
`str` with methods of its own. So types are asked by the descriptors of `type` itself, and texts are made plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, cast

_name, _qualname, _module, _mro = (type.__dict__[f"__{name}__"] for name in ("name", "qualname", "module", "mro"))
_trace, _cause, _context = (BaseException.__dict__[f"__{name}__"] for name in ("traceback", "cause", "context"))
_FUNCTIONS = "dts.worker.functions."


def is_a(value: object, *kinds: type) -> bool:
    """Whether a value is of one of these types, which are plain classes, whatever it says of itself."""
    return issubclass(type(value), kinds)


def plain(text: str) -> str:
    """The characters of a text, without what a subclass makes of them."""
    return str.__str__(text)


def name_of(kind: type) -> str:
    """The name of a type."""
    return plain(_name.__get__(kind))


def full_name(kind: type) -> str:
    """The name of a type with its module, that of a function without its package; the name alone of a built-in."""
    qualname, module = plain(_qualname.__get__(kind)), _module.__get__(kind)
    if not is_a(module, str) or module == "builtins":
        return qualname
    return f"{plain(module).removeprefix(_FUNCTIONS)}.{qualname}"


def names_of(kind: type) -> set[str]:
    """The names of a type and of its bases, each with its module and without."""
    names = set()
    for base in cast(Sequence[type], _mro.__get__(kind)):
        module = _module.__get__(base)
        names.add(name_of(base))
        if is_a(module, str):
            names.add(f"{plain(module)}.{plain(_qualname.__get__(base))}")
    return names


def text_of(error: BaseException) -> str:
    """What an exception says; when it cannot, how that failed."""
    try:
        return plain(str(error))
    except BaseException as broken:  # noqa: BLE001 - the exception's own code runs here, and it may do anything
        return f"its message cannot be shown: {name_of(type(broken))}"


def show(error: BaseException) -> str:
    """An exception in a line."""
    return f"{full_name(type(error))}: {text_of(error)}"


def traceback_of(error: BaseException) -> TracebackType | None:
    """Where an exception was raised."""
    return cast("TracebackType | None", _trace.__get__(error))


def cause_of(error: BaseException) -> BaseException | None:
    """What an exception was raised from, or while it was handled."""
    return cast("BaseException | None", _cause.__get__(error) or _context.__get__(error))


def forget_traceback(error: BaseException) -> None:
    """Let go of the frames in which an exception was raised, and of what is in them, as far as it keeps them."""
    setter: Any = _trace
    setter.__set__(error, None)
