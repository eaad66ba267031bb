"""Secrets are taken out of texts, JSON and streams."""

from __future__ import annotations

import json

import pytest

from dts.worker.child.secrets import Secrets
from dts.worker.link.masking import Masker


@pytest.mark.parametrize("secret", ["hunter22", 'a"b\\c', "sécret", "a\nb\tc", "😀😀😀"])
def test_a_secret_is_masked_in_every_form(secret: str) -> None:
    masker = Masker([secret])
    assert masker.text(f"<{secret}>") == "<***>"
    for ascii_only in (True, False):
        value = json.dumps({"x": [f"<{secret}>"]}, ensure_ascii=ascii_only).encode()
        assert json.loads(masker.json(value)) == {"x": ["<***>"]}


def test_json_stays_json() -> None:
    masker = Masker(["12345678"])
    assert json.loads(masker.json(b'{"pin": 12345678}')) == "***"
    assert masker.json(b'{"pin": 1}') == b'{"pin": 1}'


@pytest.mark.parametrize("size", range(1, 12))
def test_a_stream_is_masked_wherever_it_is_cut(size: int) -> None:
    masker = Masker(["hunter22", "hunter2", "\nx\n"])
    data = b"a hunter22 b hunter2 c hunter \nx\n hunt"
    parts = [masker.stream(data[at : at + size]) for at in range(0, len(data), size)]
    whole = b"".join([*parts, masker.end()])
    assert b"hunter2" not in whole
    assert whole.startswith(b"a ***")
    assert whole.endswith(b" c hunter *** hunt")


def test_without_secrets_nothing_changes() -> None:
    masker = Masker()
    assert (masker.text("x"), masker.json(b"x"), masker.stream(b"x"), masker.end()) == ("x", b"x", b"x", b"")


def test_the_lines_of_a_key_are_masked_one_by_one() -> None:
    assert Masker(["-----BEGIN KEY-----\nABCDEFGHIJ\n"]).text("x ABCDEFGHIJ") == "x ***"


def test_secrets_say_what_is_missing_and_show_nothing() -> None:
    secrets = Secrets({"TOKEN": "hunter22"})
    assert (secrets.TOKEN, secrets["TOKEN"], list(secrets)) == ("hunter22", "hunter22", ["TOKEN"])
    assert "hunter22" not in repr(secrets) + str(secrets)
    with pytest.raises(KeyError, match="no secret NOPE: it has TOKEN"):
        secrets["NOPE"]
    with pytest.raises(AttributeError, match="no secret NOPE: it has TOKEN"):
        _ = secrets.NOPE
    with pytest.raises(AttributeError, match="it has none"):
        _ = Secrets({}).NOPE


@pytest.mark.parametrize("size", range(1, 20))
def test_a_secret_that_begins_or_ends_another_is_masked_as_a_whole(size: int) -> None:
    masker = Masker(["abcd1234", "abcd1234efgh", "d123", "ghij", "xx"])
    data = b"abcd1234efghij abcd1234 abcd1234efg ghij xxx abcd12 bcd1234ef abcd1234"
    parts = [masker.stream(data[at : at + size]) for at in range(0, len(data), size)]
    assert b"".join([*parts, masker.end()]).decode() == masker.text(data.decode())
