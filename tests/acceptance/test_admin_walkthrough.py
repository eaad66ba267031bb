"""An administrator's first day, at a terminal: everything is typed into the real shell, on a real deployment."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from dts.client.command.exits import COULD_NOT_RUN
from tests.services.deployment import Deployment, rows
from tests.services.waiting import wait_until

PATIENCE = 20
"""Seconds that the shell has for an answer."""


class Terminal:
    """A person at `dts-admin` in a pseudo-terminal."""

    def __init__(self, deployment: Deployment, *argv: str) -> None:
        environment = deployment.env() | {
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody here answers where the cursor is
            "DTS_SERVER_URL": deployment.url,
        }
        self._process = pexpect.spawn(
            "dts-admin",
            list(argv),
            cwd=str(deployment.folder),
            env=environment,
            encoding="utf-8",
            timeout=PATIENCE,
            dimensions=(50, 200),
        )
        self._process.str_last_chars = 5000  # what a failed test tells
        self._prompt = f":{deployment.port}>"
        self.seen = ""

    def see(self, text: str) -> None:
        """Wait until the terminal shows a text."""
        self._process.expect_exact(text)
        self.seen += str(self._process.before) + str(self._process.after)

    def type(self, line: str) -> None:
        """Type a line."""
        self._process.sendline(line)

    def keys(self, text: str) -> None:
        """Type without Enter."""
        self._process.send(text)

    def press(self, key: str) -> None:
        """Press a key together with Ctrl."""
        self._process.sendcontrol(key)

    def do(self, line: str, *texts: str) -> None:
        """Type a command and see what it shows, up to the next prompt."""
        self.type(line)
        for text in texts:
            self.see(text)
        self.prompt()

    def prompt(self) -> None:
        """Wait for the prompt of whoever is signed in."""
        self.see(self._prompt)

    def leave(self) -> int:
        """Press Ctrl-D; the exit status."""
        self.press("d")
        self._process.expect(pexpect.EOF)
        self._process.close()
        return int(self._process.exitstatus or 0)

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.close(force=True)


@pytest.fixture
def started(embedded: Deployment) -> Deployment:
    embedded.start_all()
    return embedded


@pytest.fixture
def terminal(started: Deployment) -> Iterator[Terminal]:
    """The shell of the administrator, who has just read the secret that the first start left."""
    terminal = Terminal(started, "--username", "admin")
    terminal.see("secret of admin:")
    terminal.type((started.folder / "var/admin.secret").read_text().strip())
    terminal.see("signed in as admin (administrator)")
    terminal.prompt()
    yield terminal
    terminal.close()


def run_as_alice(deployment: Deployment, function: str, infile: Path, outfile: Path) -> list[str]:
    """The command line of alice's job."""
    command = ["dts-client", function, str(infile), str(outfile), deployment.url]
    return [*command, "--username", "alice", "--secret-file", "alice.secret", "--quiet"]


def test_the_first_day_of_an_administrator(terminal: Terminal, started: Deployment, tmp_path: Path) -> None:
    set_up_alice(terminal, started)
    run_a_job(terminal, started, tmp_path)
    cancel_a_run(terminal, started, tmp_path)
    terminal.do("operations list operator=admin", "runs.cancel", "users.create")
    terminal.do("operations verify", "the operation log is whole")
    tamper(started)
    terminal.do("operations verify", "the operation log is broken", "entry 3:")
    assert terminal.leave() == 0
    in_a_script = started.admin("operations", "verify")
    assert in_a_script.returncode == 1
    assert "entry 3:" in in_a_script.stdout
    assert started.admin("doctor").returncode == 1


def set_up_alice(terminal: Terminal, started: Deployment) -> None:
    """A namespace, a function and a user, whose secret is typed twice and never shown."""
    terminal.do("namespaces add crm description='calls to the CRM'", "namespace crm added")
    terminal.do("functions add crm/call timeout=60", "function crm/call added")
    secret = "the secret of alice, typed"
    terminal.type("users add alice roles=user namespaces=crm,text,demo")
    terminal.see("new secret of alice:")
    terminal.type(secret)
    terminal.see("the same again:")
    terminal.type(secret)
    terminal.see("user alice added")
    terminal.prompt()
    terminal.do("users get alice roles namespaces", "crm, text, demo")
    (started.folder / "alice.secret").write_text(secret)
    assert secret not in terminal.seen
    assert secret not in (started.folder / ".local/state/dts/history").read_text()


def run_a_job(terminal: Terminal, started: Deployment, tmp_path: Path) -> None:
    """alice runs a file through a function; the administrator sees the run."""
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    command = run_as_alice(started, "text/upper", tmp_path / "in.txt", tmp_path / "out.json")
    done = subprocess.run(
        command, cwd=started.folder, env=started.env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(row["result"] for row in rows(tmp_path / "out.json")) == ["ONE", "TWO"]
    terminal.do("runs list user=alice", "finished", "text/upper", "alice")


def cancel_a_run(terminal: Terminal, started: Deployment, tmp_path: Path) -> None:
    """alice starts something long; the administrator finds it, thinks twice, and cancels it."""
    (tmp_path / "slow.txt").write_text("[30]\n" * 20)
    command = run_as_alice(started, "demo/sleep", tmp_path / "slow.txt", tmp_path / "slow.json")
    started.start("alice", *command, "--input-format", "json")
    run = wait_until(lambda: newest_run_of(started, "demo/sleep"), "the run to be there")
    terminal.type(f"runs cancel {run}")
    terminal.see("[y/N]")
    terminal.type("n")
    terminal.see("nothing was changed")
    terminal.prompt()
    terminal.type(f"runs cancel {run}")
    terminal.see("[y/N]")
    terminal.type("y")
    terminal.see(f"run {run} cancelled")
    terminal.prompt()
    terminal.do(f"runs get {run}", "cancelled")
    assert started.wait("alice") == COULD_NOT_RUN
    assert [row["success"] for row in rows(tmp_path / "slow.json")] == [False] * 20


def newest_run_of(started: Deployment, function: str) -> str:
    """The id of the newest run of a function, if there is one."""
    listed = started.admin("runs", "list", "--limit", "1", "--json").stdout.splitlines()
    newest = json.loads(listed[0]) if listed else {}
    return str(newest["id"]) if newest.get("function") == function else ""


def tamper(started: Deployment) -> None:
    """Somebody with the database, and without the server's key, rewrites history."""
    with sqlite3.connect(started.folder / "var/store.db") as database:
        changed = database.execute("UPDATE operations SET operator = 'mallory' WHERE seq = 3").rowcount
    database.close()
    assert changed == 1


# smaller things that need a terminal


def test_ctrl_c_drops_the_line_and_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.keys("users delete adm")
    terminal.press("c")
    terminal.prompt()
    terminal.do("whoami id", "admin")
    assert terminal.leave() == 0


def test_tab_completes_commands_and_ids(terminal: Terminal) -> None:
    terminal.keys("func\t")
    terminal.see("tions")
    terminal.keys(" get text/up\t")
    terminal.see("per")
    terminal.do(" description", "The text in upper case.")


def test_a_wrong_secret_is_asked_for_again(started: Deployment) -> None:
    terminal = Terminal(started, "--username", "admin")
    try:
        terminal.see("secret of admin:")
        terminal.type("not the secret")
        terminal.see("not signed in: login NAME")
        terminal.prompt()
        terminal.type("login admin")
        terminal.see("secret of admin:")
        terminal.type((started.folder / "var/admin.secret").read_text().strip())
        terminal.see("signed in as admin")
        assert "not the secret" not in terminal.seen
    finally:
        terminal.close()


def test_a_question_can_be_broken_off(terminal: Terminal) -> None:
    terminal.type("namespaces delete text")
    terminal.see("[y/N]")
    terminal.press("c")
    terminal.prompt()
    terminal.do("namespaces get text id", "text")


def test_ctrl_c_ends_a_command_and_not_the_shell(terminal: Terminal, started: Deployment) -> None:
    started.kill("server")
    terminal.type("whoami")
    terminal.see("is not reachable (connection refused); waiting")
    terminal.press("c")
    terminal.see("interrupted")
    terminal.prompt()
    started.start_server()
    terminal.do("whoami id", "admin")
