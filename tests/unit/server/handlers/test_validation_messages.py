"""What is wrong with a request is said in words, not in types, paths and regular expressions."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from dts.server.handlers.admin.functions import Functions
from dts.server.handlers.admin.users import Users
from dts.server.handlers.admin.vhosts import VirtualHosts
from dts.server.handlers.validation_messages import PATTERNS, in_words
from dts.server.intake.submission import JobParams
from dts.server.openapi import describe
from dts.server.routes import ROUTES

SAID: list[tuple[Any, object, str]] = [
    (Users.initial, {"id": "x"}, "secret is missing"),
    (Users.initial, {"id": 5, "secret": "long enough"}, "id must be text, not a whole number"),
    (Users.initial, {"id": "x", "secret": "short"}, "secret must have at least 8 characters"),
    (Users.changes, {"email": "nobody"}, "email must be an e-mail address, or empty"),
    (Users.changes, {"colour": 1}, "there is no field colour"),
    (Users.changes, {"limits": {"jobs": 1}}, "there is no field jobs in limits"),
    (Users.changes, {"limits": {"unfinished": -1}}, "limits.unfinished must be a whole number of 0 or more"),
    (Users.changes, {"limits": {"retention": 0}}, "limits.retention must be a number over 0"),
    (Users.changes, {"limits": {"requests_per_second": 1e-6}}, "limits.requests_per_second must be a number of 0.001"),
    (Users.changes, {"limits": 5}, "limits must be an object or null, not a whole number"),
    (Users.changes, {"roles": []}, "roles must have at least 1 element"),
    (Users.changes, {"roles": ["king"]}, "roles[0]: 'king' is none of what can be chosen here"),
    (Users.changes, {"namespaces": ["a", "B"]}, "namespaces[1] must be the name of a namespace, or * for all of them"),
    (Users.changes, {"disabled": "yes"}, "disabled must be true or false or null, not text"),
    (Users.changes, 5, "params must be an object, not a whole number"),
    (Functions.changes, {"memory_limit": 1}, "memory_limit must be a whole number of 1048576 or more"),
    (Functions.changes, {"description": "x" * 10_001}, "description must have at most 10000 characters"),
    (VirtualHosts.changes, {"functions_dir": "-x"}, "functions_dir must be a path that does not start with a hyphen"),
    (JobParams | list[JobParams], [{"function": "a/b"}, {"function": 1}], "params[1].function must be text"),
    (JobParams | list[JobParams], [{"args": []}], "params[0].function is missing"),
]


@pytest.mark.parametrize(("kind", "params", "expected"), SAID, ids=range(len(SAID)))
def test_a_mistake_is_told_in_words(kind: Any, params: object, expected: str) -> None:
    body = msgspec.defstruct("Body", [("params", kind)], forbid_unknown_fields=True)
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(msgspec.json.encode({"params": params}), type=body)
    message = in_words(str(raised.value))
    assert message.startswith(expected)
    assert not re.search(r"[`$]|Expected|regex|\?!", message)


def test_a_mistake_at_the_top_is_told_too() -> None:
    assert in_words("Expected `object`, got `array`") == "the body must be an object, not a list"
    assert in_words("Object missing required field `params`") == "params is missing"


def test_in_a_query_everything_is_text_so_that_is_no_news() -> None:
    assert in_words("Expected `int`, got `str` - at `$.limit`", got=False) == "limit must be a whole number"


def test_every_pattern_of_the_interface_has_words() -> None:
    def patterns(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["pattern"]} if isinstance(part.get("pattern"), str) else set()
            return own.union(*(patterns(each) for each in part.values()))
        return set().union(*(patterns(each) for each in part)) if isinstance(part, list) else set()

    assert patterns(describe(ROUTES)["components"]) - set(PATTERNS) == set()
