"""What a person at the terminal is asked, and when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from dts.auth import Credentials
from dts.management.commands import ALL_COMMANDS
from dts.management.shell.grammar import Grammar
from dts.management.shell.help import render_help
from dts.management.shell.prompts import Interrupted, Prompts
from dts.management.shell.session import Options, Session
from dts.management.shell.shell import greet, run_words
from tests.integration.conftest import Site

GRAMMAR = Grammar(ALL_COMMANDS)


class Person(Prompts):
    """Answers questions in their order, and is gone (Ctrl-C) when there are no more answers."""

    def __init__(self) -> None:
        super().__init__(present=True)
        self.answers: list[str] = []
        self.asked: list[str] = []

    async def _ask(self, question: str, *, echo: bool = True) -> str:
        self.asked.append(question)
        if not self.answers:
            raise Interrupted
        return self.answers.pop(0)


@pytest.fixture
def person() -> Person:
    return Person()


@pytest.fixture
async def session(site: Site, person: Person) -> AsyncIterator[Session]:
    secret_file = str(site.settings.server.admin_secret_file)
    session = Session(Options(site.url, "admin", secret_file), person, partial(render_help, GRAMMAR))
    yield session
    session.close()


async def run(session: Session, line: str) -> int:
    return await run_words(session, GRAMMAR, line.split())


async def test_a_new_secret_is_typed_twice(session: Session, person: Person) -> None:
    person.answers = ["short", "long enough", "long enough"]
    assert await run(session, "users add alice") == 0
    assert person.asked[-1] == "the same again: "


@pytest.mark.parametrize(
    ("line", "reason"),
    [("users add admin", "there is a user admin already"), ("users update nobody secret=", "nobody")],
)
async def test_nobody_types_a_secret_for_what_cannot_be_done(
    session: Session, person: Person, line: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(session, line) == 1
    assert reason in capsys.readouterr().err
    assert person.asked == []


async def test_going_away_at_a_question_changes_nothing_and_says_so(
    session: Session, person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        await run(session, "users delete admin")
    assert person.asked == ["Delete the user admin? [y/N] "]
    assert capsys.readouterr().err == "nothing was changed\n"
    person.answers = ["n"]
    assert await run(session, "users delete admin") == 1
    assert capsys.readouterr().err == "dts-admin: nothing was changed\n"


async def test_a_limit_does_not_sign_a_person_out(
    session: Session, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    client = await session.client()
    await client.users.add("alice", secret="long enough", limits={"requests_per_second": 0.001})
    session.use(Credentials("alice", "long enough"))
    await greet(session)
    assert "signed in as alice" in capsys.readouterr().err
    await greet(session)
    assert "over the limit of user alice" in capsys.readouterr().err
    assert session.signed_in
