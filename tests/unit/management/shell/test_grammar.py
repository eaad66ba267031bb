"""How a line becomes a command: words, fields, flags, and what is said when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dts.errors import ConfigError, InvalidInput
from dts.management.commands import ALL_COMMANDS
from dts.management.shell.arguments import LIMIT, Arguments
from dts.management.shell.fields import Field, Kind, Wish, parse_value
from dts.management.shell.grammar import Grammar, parse_arguments
from dts.management.shell.help import render_command, render_help
from dts.management.utils import check_text, may_hold_secret, nearest, printable, split_line


@pytest.fixture
def grammar() -> Grammar:
    return Grammar(ALL_COMMANDS)


def parse(grammar: Grammar, line: str) -> tuple[str, Arguments]:
    found, rest = grammar.find(split_line(line))
    return found.name, parse_arguments(found, rest)


def test_words_fields_and_flags_are_told_apart(grammar: Grammar) -> None:
    name, given = parse(grammar, "users add alice roles=user,developer email='a b@x' disabled=no --json")
    assert name == "users add"
    assert given.words == ("alice",)
    assert given.values == {"roles": ["user", "developer"], "email": "a b@x", "disabled": False}
    assert given.flags == {"--json": ""}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("users", "users get"),
        ("users roles=user", "users get"),
        ("runs --json", "runs list"),
        ("operations", "operations list"),
        ("hosts", "hosts"),
        ("hosts list", "hosts"),
        ("runs ls", "runs list"),
        ("users list", "users get"),
        ("users ls roles=developer", "users get"),
    ],
)
def test_a_noun_alone_lists(line: str, name: str, grammar: Grammar) -> None:
    assert parse(grammar, line)[0] == name


def test_the_rest_of_a_line_may_be_a_comment(grammar: Grammar) -> None:
    assert parse(grammar, "users get alice # as every morning")[1].words == ("alice",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("usrs get", "no command usrs; did you mean users?"),
        ("users ad alice", "no command users ad; did you mean users add?"),
        ("users frobnicate", "there are add, get, update, delete"),
        ("jobs", "jobs needs one of get, cancel"),
        ("xyzzy", "help shows them all"),
        ("users add", "users add is missing a word: write users add ID"),
        ("users delete a b", "too many words"),
        ("users add alice rols=user", "no field rols; did you mean roles?"),
        ("users add alice roles=usr", "did you mean user?"),
        ("users add alice disabled=perhaps", "disabled takes yes or no"),
        ("users add alice email=a email=b", "email is given twice"),
        ("users update alice limits.running=many", "limits.running takes whole number, or none"),
        ("functions add a/b timeout=inf", "timeout takes seconds, or 500ms, 30s, 5m"),
        ("users get --limt 3", "no flag --limt; did you mean --limit?"),
        ("login --username joe", "no flag --username: write login [NAME]"),
        ("users get --limit 1 --limit 2", "--limit is given twice"),
        ("users get --limit", "--limit needs a N"),
        ("users delete a --force=1", "--force takes no value"),
        ("whoami x=1", "takes no FIELD=VALUE"),
        ("users get 'alice", "quotation marks come in pairs"),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_right(line: str, reason: str, grammar: Grammar) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(grammar, line)
    assert reason in caught.value.message


def test_a_flag_with_a_number_takes_no_other_text(grammar: Grammar) -> None:
    assert parse(grammar, "users get --limit 7")[1].number(LIMIT) == 7
    assert parse(grammar, "users get")[1].number(LIMIT) is None
    with pytest.raises(InvalidInput, match="whole number"):
        parse(grammar, "users get --limit many")[1].number(LIMIT)


def test_help_is_given_even_where_words_are_missing(grammar: Grammar) -> None:
    assert "--help" in parse(grammar, "users add --help")[1].flags
    assert "--help" in parse(grammar, "runs get -h")[1].flags


def test_a_short_flag_is_the_long_one(grammar: Grammar) -> None:
    assert parse(grammar, "doctor -c etc/worker.toml")[1].flags == {"--config": "etc/worker.toml"}
    assert parse(grammar, "dead replay --where function=a/b,reason=rejected -y")[1].flags == {
        "--where": "function=a/b,reason=rejected",
        "--yes": "",
    }


def test_a_secret_is_never_spelled_out_nor_repeated(grammar: Grammar) -> None:
    for line in ("users add alice secret=hunter2", "login alice hunter2"):
        with pytest.raises(InvalidInput) as caught:
            parse(grammar, line)
        assert "hunter2" not in caught.value.message


def test_a_secret_is_made_up_asked_for_or_in_a_file(grammar: Grammar, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("generate\n")
    assert parse(grammar, "users add alice secret=generate")[1].values["secret"] is Wish.GENERATE
    assert parse(grammar, "users update alice secret=")[1].values["secret"] is Wish.ASK
    assert parse(grammar, f"users add alice secret=@{tmp_path}/secret")[1].values["secret"] == "generate"
    with pytest.raises(ConfigError, match=r"cannot read secret from .*missing"):
        parse(grammar, f"users add alice secret=@{tmp_path}/missing")


def test_a_key_comes_from_a_file(grammar: Grammar, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("-----BEGIN\nx\n")
    assert parse(grammar, f"vhosts add w1 ssh_key=@{tmp_path}/key")[1].values == {"ssh_key": "-----BEGIN\nx\n"}
    with pytest.raises(InvalidInput, match="ssh_key=@FILE"):
        parse(grammar, "vhosts add w1 ssh_key=BEGIN")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind.TEXT, "none", None),
        (Kind.TEXT, "", ""),
        (Kind.INTEGER, "-5", -5),
        (Kind.NUMBER, "60", 60),
        (Kind.NUMBER, "0.5", 0.5),
        (Kind.BOOLEAN, "YES", True),
        (Kind.BOOLEAN, "off", False),
        (Kind.LIST, "a, b,,c", ["a", "b", "c"]),
        (Kind.LIST, "", []),
        (Kind.OBJECT, '{"a": {"b": [1]}}', {"a": {"b": [1]}}),
    ],
)
def test_values_are_read_by_the_type_of_their_field(kind: Kind, text: str, value: object) -> None:
    assert parse_value(Field("x", kind, "", optional=True), text) == value


@pytest.mark.parametrize(
    ("kind", "text"), [(Kind.INTEGER, "1.5"), (Kind.NUMBER, "nan"), (Kind.OBJECT, "[1]"), (Kind.OBJECT, "{")]
)
def test_values_of_another_type_are_refused(kind: Kind, text: str) -> None:
    with pytest.raises(InvalidInput, match="is not right"):
        parse_value(Field("x", kind, ""), text)


def test_every_command_has_help_with_an_example_that_parses(grammar: Grammar, tmp_path: Path) -> None:
    for name, each in grammar.commands.items():
        text = render_command(each)
        assert each.help, name
        assert "\nexample" in text, name
        assert "\nexit status: 0 " in text, name
        for example in each.examples:
            line = example.replace("@~/.ssh/id_ed25519", f"@{__file__}")
            found, rest = grammar.find(split_line(line))
            assert found is each, example
            parse_arguments(found, rest)


def test_help_exists_for_the_shell_a_noun_and_a_command(grammar: Grammar) -> None:
    overview = render_help(grammar, ())
    assert all(name in overview for name in grammar.commands)
    assert "users add ID [FIELD=VALUE …]" in render_help(grammar, ["users"])
    assert "limits.unfinished" in render_help(grammar, ["users", "add"])
    assert "doctor" in render_help(grammar, ["doctor"])
    with pytest.raises(InvalidInput, match="did you mean users\\?"):
        render_help(grammar, ["usres"])
    with pytest.raises(InvalidInput, match="try help users add"):
        render_help(grammar, ["users", "add", "alice"])


@pytest.mark.parametrize(
    "line",
    [
        "users add alice secret=hunter2",
        "users add alice 'secret=hunter 2'",
        'users add alice se"cr"et=hunter2',
        "users update bob SECRET=x",
        "vhosts add w ssh_pem_cert=abc",
        "  login alice hunter2",
    ],
)
def test_lines_with_secrets_are_known(line: str) -> None:
    assert may_hold_secret(line)


@pytest.mark.parametrize(
    "line",
    [
        "users add alice secret=generate",
        "users add alice secret=@alice.secret",
        "users update alice secret=",
        "login alice",
        "login alice --save",
        "users get alice secret_expires",
    ],
)
def test_lines_without_secrets_are_kept(line: str) -> None:
    assert not may_hold_secret(line)


def test_bytes_that_are_no_text_are_refused() -> None:
    check_text(["users", "é"])
    with pytest.raises(InvalidInput, match="is not text in UTF-8"):
        check_text(["users", "get", "\udcff"])


def test_nothing_near_is_nothing_suggested() -> None:
    assert nearest("zzz", ["users", "runs"]) == ""


def test_what_would_steer_a_terminal_is_shown_as_it_is_written() -> None:
    assert printable("a\x1b[2Jb\x07ü\n") == "a\\x1b[2Jb\\x07ü\n"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("alerts", "alerts list"),
        ("alerts rules", "alerts rules get"),
        ("alerts rules kind=disk", "alerts rules get"),
        ("alerts rules add x kind=disk", "alerts rules add"),
        ("alerts silences delete x", "alerts silences delete"),
        ("alerts silence during=2h", "alerts silence"),
    ],
)
def test_a_noun_may_have_two_words(line: str, name: str, grammar: Grammar) -> None:
    assert parse(grammar, line)[0] == name


def test_a_verb_that_a_noun_of_two_words_has_not_is_told_with_those_that_it_has(grammar: Grammar) -> None:
    with pytest.raises(InvalidInput, match="there are add, get, update, delete"):
        parse(grammar, "alerts rules frobnicate")
