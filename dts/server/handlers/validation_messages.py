"""What is wrong with a request, in words: msgspec names types, paths and regular expressions, which is for programmers.

The patterns of fields are here, too, each with what to say when a value does not match it.
"""

from __future__ import annotations

import ast
import re

from dts.wire.numbers import EXCEPTION

# The look-ahead is for Python, where `$` also matches before a line feed at the end.
EMAIL = r"^([^@\s]+@[^@\s]+)?$(?!\n)"
NAMESPACE_CHOICE = r"^(\*|[a-z][a-z0-9_]{0,63})$(?!\n)"
ROUTE = r"^[a-z][a-z0-9_.-]{0,63}$(?!\n)"
GROUP = r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)"
SSH_USER = r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$(?!\n)"
VERSION = r"^([0-9a-f]{64})?$(?!\n)"
KEY = r"^(args|kwargs)(\.[A-Za-z0-9_-]{1,64}){1,8}$(?!\n)"
SESSION = r"^[0-9a-z]{8,64}$(?!\n)"
FOLDER = r"^([^\x00-\x1f\x7f-\x9f-][^\x00-\x1f\x7f-\x9f]*)?$(?!\n)"

PATTERNS = {
    EMAIL: "an e-mail address, or empty",
    NAMESPACE_CHOICE: "the name of a namespace, or * for all of them",
    ROUTE: "a route: a small letter, then small letters, digits, and any of _.-; 64 characters at most",
    EXCEPTION: "the name of an exception, such as OSError",
    GROUP: "the name of a group: small letters, digits, and any of _.-; 64 characters at most",
    SSH_USER: "the name of a user on the host",
    VERSION: "the whole hash of a version, 64 hexadecimal digits, or empty",
    KEY: "a place in the arguments, such as kwargs.customer or args.0",
    SESSION: "8 to 64 small letters and digits",
    FOLDER: "a path that does not start with a hyphen and has no control characters",
}
"""What a value that must match a pattern is."""

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_BOUNDS = {">=": "of {} or more", "<=": "of {} at most", ">": "over {}", "<": "under {}"}
_LENGTHS = {">=": "at least {} {}", "<=": "at most {} {}"}

_AT = re.compile(r"(?P<problem>.*) - at `(?P<path>[^`]*)`(?: in `(?P<within>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_CHOICE = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_TYPE = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_BOUND = re.compile(r"Expected `(int|float)` (>=|<=|>|<) (\S+)")
_LENGTH = re.compile(r"Expected `(\w+)` of length (>=|<=) (\d+)")
_PATTERN = re.compile(r"Expected `str` matching regex (.*)", re.DOTALL)


def in_words(message: str, *, got: bool = True) -> str:
    """What msgspec says of a value as a sentence that names the field; without `got`, not what came instead."""
    found = _AT.fullmatch(message)
    problem, path = (found["problem"], found["within"] or found["path"]) if found else (message, "$")
    field = _field(path)
    if match := _MISSING.fullmatch(problem):
        return f"{_joined(field, match[1])} is missing"
    if match := _UNKNOWN.fullmatch(problem):
        return f"there is no field {match[1][:80]}" + (f" in {field}" if field else "")
    if match := _CHOICE.fullmatch(problem):
        return f"{field}: {match[1][:80]} is none of what can be chosen here"
    return f"{field or 'the body'} {_demand(problem, got=got)}"


def _demand(problem: str, *, got: bool) -> str:
    """What a value must be."""
    if match := _TYPE.fullmatch(problem):
        return f"must be {_kinds(match[1])}" + (f", not {_kinds(match[2])}" if got else "")
    if match := _BOUND.fullmatch(problem):
        return f"must be {_TYPES[match[1]]} {_BOUNDS[match[2]].format(match[3].removesuffix('.0'))}"
    if match := _LENGTH.fullmatch(problem):
        unit = "characters" if match[1] == "str" else "elements"
        return f"must have {_LENGTHS[match[2]].format(match[3], unit if match[3] != '1' else unit[:-1])}"
    if match := _PATTERN.fullmatch(problem):
        return f"must be {PATTERNS.get(_literal(match[1]), 'written another way')}"
    return f"is not valid: {problem}"


def _field(path: str) -> str:
    """A path as people write it: `email`, `limits.running`, `params[1].function`; empty for everything."""
    inside = path.removeprefix("$").removeprefix(".")
    return inside.removeprefix("params.")


def _joined(field: str, name: str) -> str:
    return name if field in ("", "params") else f"{field}.{name}"


def _kinds(text: str) -> str:
    return " or ".join(_TYPES.get(kind, kind) for kind in text.split(" | "))


def _literal(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text
