"""Names and ids: what is allowed, how they are made, how they are taken apart."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
from typing import NamedTuple

from dts.errors import InvalidName

RESERVED_NAMESPACE = "server"
"""Functions in this namespace run inside the server, for administrators alone."""

_PART = re.compile(r"[a-z][a-z0-9_]{0,63}")
_USER = re.compile(r"[a-z][a-z0-9_.@-]{0,63}")
_HOST = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_ROUTE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_SCHEDULE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_RECORD = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_ID = re.compile(r"[0-9a-z]{26}")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread


class FunctionName(NamedTuple):
    """`ns/func` taken apart."""

    namespace: str
    function: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.function}"


def parse_function_name(name: object) -> FunctionName:
    """Take `ns/func` apart.

    Raises:
        InvalidName: `name` is not a string of two parts that each match `[a-z][a-z0-9_]{0,63}` in full.
    """
    if isinstance(name, str):
        namespace, slash, function = name.partition("/")
        if slash and _PART.fullmatch(namespace) and _PART.fullmatch(function):
            return FunctionName(namespace, function)
    raise InvalidName(
        f"{_shown(name)} is not a function name: write namespace/function, each a lower-case letter followed by "
        "at most 63 lower-case letters, digits or underscores, such as text/upper"
    )


def check_user_id(user_id: object) -> str:
    """Return `user_id` if it may name a user.

    Raises:
        InvalidName: it is not a string that matches `[a-z][a-z0-9_.@-]{0,63}` in full.
    """
    if isinstance(user_id, str) and _USER.fullmatch(user_id):
        return user_id
    raise InvalidName(f"{_shown(user_id)} is not a user name: a lower-case letter, then at most 63 of a-z 0-9 _ . @ -")


def check_namespace(name: object) -> str:
    """Return `name` if it may name a namespace.

    Raises:
        InvalidName: it is not a string that matches `[a-z][a-z0-9_]{0,63}` in full, or it is the reserved one.
    """
    if isinstance(name, str) and _PART.fullmatch(name):
        if name == RESERVED_NAMESPACE:
            raise InvalidName(f"the namespace {name} is reserved for what runs inside the server: choose another name")
        return name
    raise InvalidName(f"{_shown(name)} is not a namespace: a lower-case letter, then at most 63 of a-z 0-9 _")


def check_route_id(route_id: object) -> str:
    """Return the name of a route, or ALL_ROUTES, unchanged, or raise InvalidName."""
    if not isinstance(route_id, str) or not (_ROUTE.fullmatch(route_id) or route_id == "*"):
        raise InvalidName(f"route {route_id!r:.80}: write a name such as default or far-east, or * for all of them")
    return route_id


def check_host_id(host_id: object) -> str:
    """Return `host_id` if it may name a host.

    Raises:
        InvalidName: it is not a string that matches `[a-z0-9][a-z0-9.-]{0,63}` in full.
    """
    if isinstance(host_id, str) and _HOST.fullmatch(host_id):
        return host_id
    raise InvalidName(f"{_shown(host_id)} is not a host: a lower-case letter or digit, then at most 63 of a-z 0-9 . -")


def check_schedule_id(schedule_id: object) -> str:
    """Return `schedule_id` if it may name a schedule.

    Raises:
        InvalidName: it is not a string that matches `[a-z][a-z0-9_.-]{0,63}` in full.
    """
    if isinstance(schedule_id, str) and _SCHEDULE.fullmatch(schedule_id):
        return schedule_id
    raise InvalidName(f"{_shown(schedule_id)} is not a schedule: a lower-case letter, then at most 63 of a-z 0-9 _ . -")


def check_record_id(record_id: object, what: str) -> str:
    """Return `record_id` if it may name `what`, such as "an alert rule".

    Raises:
        InvalidName: it is not a string that matches `[a-z][a-z0-9_-]{0,63}` in full.
    """
    if isinstance(record_id, str) and _RECORD.fullmatch(record_id):
        return record_id
    raise InvalidName(f"{_shown(record_id)} cannot name {what}: a lower-case letter, then at most 63 of a-z 0-9 _ -")


def new_id() -> str:
    """A new id: 26 characters, sorted by the time it was made, with 80 random bits (a ULID in lower case)."""
    return _id((time.time_ns() // 1_000_000 << 80) | secrets.randbits(80))


def first_id(at: float) -> str:
    """What sorts before every id made at a time (seconds since the epoch) or later, and after all made before it."""
    return _id(int(at * 1000) << 80)


def derived_id(other: str, owner: str) -> str:
    """The id of the same time as another one that belongs to an owner's use of it, always the same."""
    digest = hashlib.blake2b(f"{owner}\0{other}".encode(), digest_size=10).digest()
    return other[:10] + _id(int.from_bytes(digest))[10:]


def id_time(text: str) -> float:
    """When an id was made, in seconds since the epoch; infinity for what is none."""
    number = 0
    for letter in text[:10]:
        value = _ALPHABET.find(letter)
        if value < 0:
            return math.inf
        number = number << 5 | value
    return number / 1000 if is_id(text) else math.inf


def is_id(text: str) -> bool:
    """Whether `text` looks like what `new_id` makes; anything else cannot be in a store."""
    return _ID.fullmatch(text) is not None


def _id(number: int) -> str:
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -5, -5))


def block_id(run_id: str, number: int) -> str:
    """The id of block `number` of a run."""
    return f"{run_id}-{number}"


def job_id(run_id: str, number: int) -> str:
    """The id of job `number` of a run, where `number` is the block's number × block size + the job's index."""
    return f"{run_id}-{number}"


def split_job_id(text: str) -> tuple[str, int] | None:
    """Take a job's (or block's) id apart into the run's id and a number; None if it is not one."""
    run_id, dash, number = text.partition("-")
    if dash and is_id(run_id) and number.isascii() and number.isdigit() and len(number) <= 18:
        return run_id, int(number)
    return None


def _shown(value: object) -> str:
    """A caller's value, short enough to put in a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
