"""What `main_many` gets and gives: a list of argument lists, and a list of as many results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from dts.errors import DtsError
from dts.worker.attempt.introspection import full_name, is_a


class WrongResults(DtsError):
    """`main_many` did not return a list with one result for each of its items."""


class Arguments(list[Any]):
    """The arguments of one job, as a list; its keyword arguments are in `kwargs`."""

    __slots__ = ("kwargs",)

    def __init__(self, args: Iterable[Any], kwargs: dict[str, Any]) -> None:
        super().__init__(args)
        self.kwargs = kwargs


def results_of(returned: Any, count: int) -> list[Any]:
    """What `main_many` returned for each of `count` items; an array of numpy's becomes a list.

    Raises:
        WrongResults: it is not a list, tuple or array, or not as long as the items.
    """
    if not is_a(returned, list, tuple):
        if not hasattr(returned, "tolist"):
            raise WrongResults(
                f"main_many returned a value of type {full_name(type(returned))}: return a list with a result, or an"
                " exception, for each item"
            )
        returned = returned.tolist()
    results = list(returned)
    if len(results) != count:
        raise WrongResults(
            f"main_many returned {len(results)} results for {count} item{'s' * (count != 1)}: return a list with a"
            " result, or an exception, for each item"
        )
    return results


def main_of_many(many: Callable[..., Any]) -> Callable[..., Any]:
    """A `main` that calls `main_many` with one item."""

    def main(*args: Any, **kwargs: Any) -> Any:
        returned = many([Arguments(args, kwargs)])
        return _wait_for(returned) if is_a(returned, Awaitable) else _only(returned)

    return main


async def _wait_for(returned: Awaitable[Any]) -> Any:
    return _only(await returned)


def _only(returned: Any) -> Any:
    """The result of the only item. Raises it if it is an exception."""
    [result] = results_of(returned, 1)
    if is_a(result, BaseException):
        raise result
    return result
