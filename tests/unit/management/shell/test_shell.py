"""What the shell keeps, completes and shows."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from dts.client.credentials import load_server_url
from dts.errors import ConfigError
from dts.management.commands import ALL_COMMANDS
from dts.management.shell.completion import CommandCompleter, Ids
from dts.management.shell.grammar import Grammar
from dts.management.shell.output import Column, Output, as_text, changes_in_words, limit_of
from dts.management.shell.session import Session
from dts.management.shell.shell import may_be_kept, open_history
from dts.management.utils import read_secret_file, write_private

# completion


class FakeListing:
    """Ids in their order, and how often they were asked for."""

    def __init__(self, *ids: str) -> None:
        self.ids = ids
        self.asked: list[str | None] = []

    async def list(self, *, limit: int, after: str | None) -> AsyncIterator[dict[str, str]]:
        self.asked.append(after)
        for each in [each for each in self.ids if after is None or each > after][:limit]:
            yield {"id": each}


class FakeClient:
    def __init__(self) -> None:
        self.users = FakeListing(*sorted([f"bob{number}" for number in range(200)] + ["alice", "alina"]))
        self.namespaces = FakeListing("crm", "text")

    def close(self) -> None:
        pass


class FakeSession:
    def __init__(self) -> None:
        self.fake_client: FakeClient | None = FakeClient()

    def silent_client(self) -> FakeClient | None:
        return self.fake_client


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def completer(session: FakeSession) -> CommandCompleter:
    return CommandCompleter(Grammar(ALL_COMMANDS), Ids(cast(Session, session)))


async def complete(completer: CommandCompleter, text: str) -> list[str]:
    """The lines that Tab would make of a line."""
    found = completer.get_completions_async(Document(text), CompleteEvent(completion_requested=True))
    return [text[: len(text) + each.start_position] + each.text async for each in found]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("us", ["users"]),
        ("users a", ["users add"]),
        ("users ", ["users add", "users get", "users update", "users delete", "users pause", "users resume"]),
        ("help us", ["help users"]),
        ("help users d", ["help users delete"]),
        ("users add bob em", ["users add bob email="]),
        ("users add bob email=x em", []),
        ("users add bob roles=op", ["users add bob roles=operator"]),
        ("users add bob roles=user,op", ["users add bob roles=user,operator"]),
        ("users add bob disabled=", ["users add bob disabled=yes", "users add bob disabled=no"]),
        ("users add bob secret=", ["users add bob secret=generate"]),
        ("users add bob namespaces=crm,t", ["users add bob namespaces=crm,text"]),
        ("users delete bob --fo", ["users delete bob --force"]),
        ("users get al", ["users get alice", "users get alina"]),
        ("users get alice em", ["users get alice email"]),
        ("runs list us", ["runs list user="]),
        ("runs list user=ali", ["runs list user=alice", "runs list user=alina"]),
        ("xyzzy ", []),
        ("users xyzzy ", []),
    ],
)
async def test_tab_offers_what_may_stand_there(typed: str, offered: list[str], completer: CommandCompleter) -> None:
    assert await complete(completer, typed) == offered


async def test_ids_are_found_however_many_there_are(completer: CommandCompleter) -> None:
    assert "users get bob199" in await complete(completer, "users get bob19")


async def test_ids_are_asked_for_once_in_a_while(completer: CommandCompleter, session: FakeSession) -> None:
    for _ in range(3):
        await complete(completer, "users get al")
    assert session.fake_client is not None
    assert len(session.fake_client.users.asked) == 1


async def test_nobody_signed_in_is_nothing_offered(completer: CommandCompleter, session: FakeSession) -> None:
    session.fake_client = None
    assert await complete(completer, "users update al") == []


# history


def test_the_history_is_private_and_keeps_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history"
    history = open_history(path)
    for line in ("users get alice", "users add alice secret=hunter2", "usres get bob"):
        history.append_string(line)
        if line != "usres get bob":
            history.keep(line)
    assert history.get_strings() == ["users get alice", "usres get bob"]
    assert path.read_text().endswith("+users get alice\n")
    assert "hunter2" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("line", "status", "kept"),
    [
        ("users get alice", 0, True),
        ("users get nobody", 1, True),
        ("runs cancel 01", None, True),
        ("users add joe roles=user", 0, True),
        ("rotate secret=generate", 0, True),
        ("rotate hunter2hunter2", 2, False),
        ("users add joe hunter2hunter3", 2, False),
        ("users update joe secret hunter2hunter4", 2, False),
        ("users add joe --secret hunter2hunter5", 2, False),
        ("whoami hunter2hunter6", 2, False),
        ("help rotate hunter2hunter6", 2, False),
        ("login hunter2hunter7", 1, False),
        ("users add hunter2hunter8", None, False),
        ("users add joe secret=hunter2hunter9", 2, False),
        ("users add 'joe", 2, False),
        ("# hunter2hunter10", 0, False),
        ("", 0, False),
    ],
)
def test_only_what_certainly_holds_no_secret_goes_to_the_file(line: str, status: int | None, kept: bool) -> None:
    assert may_be_kept(Grammar(ALL_COMMANDS), line, status) is kept


def test_a_history_that_cannot_be_kept_is_kept_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    history = open_history(tmp_path / "file" / "history")
    history.append_string("users get alice")
    history.append_string("login alice hunter2")
    assert history.get_strings() == ["users get alice"]
    assert "no history is kept" in capsys.readouterr().err


# output


async def pages(*rows: dict[str, Any]) -> AsyncIterator[list[dict[str, Any]]]:
    yield list(rows)


COLUMNS = (Column("id", "user"), Column("roles"))


async def test_rows_are_a_table_for_people_and_lines_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "alice", "roles": ["user", "developer"], "version": 3}
    assert await Output().rows(pages(row), COLUMNS, limit=100, what="users") == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["user", "roles"]
    assert lines[-1] == ["alice", "user,", "developer"]
    await Output(as_json=True).rows(pages(row), COLUMNS, limit=None, what="users")
    assert capsys.readouterr().out == '{"id":"alice","roles":["user","developer"],"version":3}\n'


async def test_a_list_that_was_cut_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    await Output().rows(pages({"id": "a"}, {"id": "b"}), COLUMNS, limit=2, what="users")
    assert "the first 2 users; more with --limit N" in capsys.readouterr().err
    await Output().rows(pages(), COLUMNS, limit=2, what="users")
    assert capsys.readouterr().out == "no users\n"


def test_a_record_is_shown_whole_or_in_parts(capsys: pytest.CaptureFixture[str]) -> None:
    Output().record({"id": "alice", "email": "[bold]x[/bold]\x1b[2J", "disabled": False})
    shown = capsys.readouterr().out
    assert "[bold]x[/bold]\\x1b[2J" in shown
    assert "disabled  no" in shown
    Output(as_json=True).record({"id": "alice", "email": "a"}, fields=["email"])
    assert capsys.readouterr().out == '{"email":"a"}\n'


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("x", None, "–"),
        ("x", True, "yes"),
        ("x", 3, "3"),
        ("limits", {"running": 2, "retention": 60}, "running=2 retention=60"),
        ("ops", {"limits": {"running": None}, "roles": ["a", "b"]}, 'limits={"running":null} roles=a,b'),
        ("args", [1, [2]], "[1,[2]]"),
        ("created", 0, ""),
        ("created", 1e30, "1e+30"),
    ],
)
def test_values_as_a_person_reads_them(name: str, value: object, text: str) -> None:
    assert as_text(name, value) == text


def test_scripts_get_all_and_people_a_screenful() -> None:
    assert [limit_of(None, as_json=True), limit_of(None, as_json=False)] == [None, 100]
    assert [limit_of(0, as_json=False), limit_of(5, as_json=True)] == [None, 5]


# files with secrets


def test_a_secret_is_written_for_its_owner_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "s3cret-s3cret\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_secret_file(str(path)) == "s3cret-s3cret"
    with pytest.raises(ConfigError, match="exists already"):
        write_private(path, "x")
    with pytest.raises(ConfigError, match="No such file"):
        write_private(tmp_path / "new" / "secret", "x")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        read_secret_file(str(tmp_path / "binary"))


def test_the_server_is_named_by_the_environment_or_the_credentials_file(tmp_path: Path) -> None:
    file = tmp_path / "credentials.toml"
    assert load_server_url(environment={}, file=file) is None
    file.write_text('username = "alice"\nsecret = "s"\nurl = "http://a:1"\n')
    assert load_server_url(environment={}, file=file) == "http://a:1"
    assert load_server_url(environment={"DTS_SERVER_URL": "http://b:2"}, file=file) == "http://b:2"


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ({"limits": {}, "description": "", "timeout": None, "routes": [], "id": "own"}, ""),
        (
            {"roles": ["user", "developer"], "secret": "***", "enabled": True},
            "roles=user,developer, secret=***, enabled=yes",
        ),
        ({"limits": {"unfinished": 0, "running": None}}, "limits.unfinished=0, limits.running=–"),
        ({"email": {"from": "", "to": "a@x"}}, "email: – → a@x"),
        ({"roles": {"from": ["user"], "to": ["user", "operator"]}}, "roles: user → user,operator"),
        (
            {"limits": {"from": {"running": 2, "unfinished": 5}, "to": {"running": 3, "unfinished": 5}}},
            "limits.running: 2 → 3",
        ),
        ({"force": True, "description": {"from": "calls"}}, "force=yes, description was calls"),
        ({"description": "a\x1b[2Jb"}, "description=a\\x1b[2Jb"),
    ],
)
def test_a_change_is_told_without_what_was_left_empty(ops: dict[str, Any], words: str) -> None:
    assert changes_in_words(ops) == words


def test_a_table_cuts_what_is_long_where_a_record_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table([{"ops": "x" * 50}], [Column("ops", most=10)])
    assert capsys.readouterr().out.splitlines()[-1] == "x" * 10 + "…"
