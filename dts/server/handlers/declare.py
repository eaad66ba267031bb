"""What a handler's method takes and gives, declared beside it: the OpenAPI page is made from this.

A method that serves several kinds of records names an attribute of its handler's resource in place of a type, such as
`body="initial"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dts.server.consts import CONTENT_JSON, ErrorCode

F = TypeVar("F", bound=Callable[..., Any])

Shape = Any
"""A type that msgspec has a schema of; or the name of an attribute of the handler's resource that holds one."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one method takes and gives.

    `body` is the type of `params`, `query` a Struct of the arguments in the query, `answer` the type of `result`.
    `accepts` and `gives` are media types in place of JSON, `statuses` all of success, `errors` the codes that are
    particular to this method: those of signatures, roles, bodies and missing records are understood.
    """

    answer: Shape = None
    body: Shape = None
    query: Shape = None
    statuses: tuple[int, ...] = (200,)
    errors: tuple[ErrorCode, ...] = ()
    accepts: tuple[str, ...] = (CONTENT_JSON,)
    gives: tuple[str, ...] = (CONTENT_JSON,)
    headers: tuple[str, ...] = ()


def declares(**fields: Any) -> Callable[[F], F]:
    """Decorate a handler's method with its Declaration, given by its fields."""

    def decorate(method: F) -> F:
        method.declaration = Declaration(**fields)  # type: ignore[attr-defined]
        return method

    return decorate


def declaration_of(method: object) -> Declaration | None:
    """What a method declares, if it does."""
    found: Declaration | None = getattr(method, "declaration", None)
    return found
