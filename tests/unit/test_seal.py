"""The seal of messages: what it covers, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dts.wire.seal import HEADER_SEAL, NO_SEAL, WRONG_TAG, Seal, key_id

KEY, OTHER = b"k" * 64, b"o" * 64
HEADERS: dict[str, str | int] = {"run": "r", "block": "r-0", "count": 3}


def sealed(seal: Seal, headers: Mapping[str, str | int] = HEADERS) -> dict[str, str | int]:
    return {**headers, HEADER_SEAL: seal.of_message("q", b"body", "deflate", headers)}


def test_a_sealed_message_is_genuine_whatever_the_broker_adds_to_it() -> None:
    headers = sealed(Seal([KEY])) | {"x-dts-queue": "q", "x-dts-reason": "late", "x-delivery-count": 2}
    reordered = dict(reversed(headers.items()))
    assert Seal([KEY]).fault("q", b"body", "deflate", reordered) == ""


@pytest.mark.parametrize(
    ("queue", "body", "encoding", "changes"),
    [
        ("other", b"body", "deflate", {}),
        ("q", b"Body", "deflate", {}),
        ("q", b"", "deflate", {}),
        ("q", b"body", "", {}),
        ("q", b"body", "deflate", {"run": "s"}),
        ("q", b"body", "deflate", {"count": "3"}),
        ("q", b"body", "deflate", {"count": 4}),
        ("q", b"body", "deflate", {"more": 1}),
        ("q", b"body", "deflate", {"run": "\ud800"}),
        ("q", b"body", "deflate", {"count": 2**200}),
    ],
)
def test_whatever_is_changed_is_refused(queue: str, body: bytes, encoding: str, changes: dict[str, str | int]) -> None:
    headers = sealed(Seal([KEY])) | changes
    assert Seal([KEY]).fault(queue, body, encoding, headers) == WRONG_TAG


def test_body_and_headers_cannot_run_into_each_other() -> None:
    seal = Seal([KEY])
    one = seal.of_message("q", b"}]body", "", {"a": "b"})
    assert one != seal.of_message("q", b"body", "", {"a": "b}]"})


@pytest.mark.parametrize("seal", ["", "nothing", f"{key_id(KEY)}", 5])
def test_what_is_no_seal_is_refused(seal: str | int) -> None:
    assert Seal([KEY]).fault("q", b"body", "", {HEADER_SEAL: seal}) == NO_SEAL
    assert Seal([KEY]).fault("q", b"body", "", {}) == NO_SEAL


@pytest.mark.parametrize("tag", ["", "0" * 32, "\ud800", "é" * 32])
def test_a_tag_that_is_none_is_refused(tag: str) -> None:
    assert Seal([KEY]).fault("q", b"body", "", {HEADER_SEAL: f"{key_id(KEY)}:{tag}"}) == WRONG_TAG


def test_another_fleets_message_says_whose_key_it_was_sealed_with() -> None:
    fault = Seal([KEY]).fault("q", b"body", "deflate", sealed(Seal([OTHER])))
    assert key_id(OTHER) in fault
    assert key_id(KEY) in fault
    assert KEY.hex() not in fault


def test_a_fleet_changes_its_key_while_it_runs() -> None:
    old, both, new = Seal([KEY]), Seal([OTHER, KEY]), Seal([OTHER])
    assert both.fault("q", b"body", "deflate", sealed(old)) == ""
    assert both.fault("q", b"body", "deflate", sealed(new)) == ""
    assert new.fault("q", b"body", "deflate", sealed(both)) == ""
    assert new.fault("q", b"body", "deflate", sealed(old))


def test_an_event_is_sealed_for_its_topic() -> None:
    seal = Seal([KEY])
    for payload in ("", "run1 run2", '{"a": "ü \U0001f600"}'):
        assert seal.open_event("results", seal.of_event("results", payload)) == (payload, "")
    event = seal.of_event("results", "run1")
    assert seal.open_event("cancelled", event)[1] == WRONG_TAG
    assert seal.open_event("results", event + " run2")[1] == WRONG_TAG
    assert seal.open_event("results", "run1 run2")[1] == NO_SEAL
    assert seal.open_event("results", "run1")[1] == NO_SEAL
    assert seal.open_event("results", f"{seal.id}:0 \ud800")[1] == WRONG_TAG
