"""The commands of `dts-admin` against a real server: what they do, what they say, what they exit with."""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
import time
from pathlib import Path

import pytest

from dts.model import WorkerState
from dts.wire.queues import jobs_queue
from tests.integration.conftest import Site
from tests.integration.management.shell.conftest import Run, said, write
from tests.services.waiting import within


def read(path: str) -> str:
    return Path(path).read_text()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# records


async def test_a_secret_is_not_written_to_a_folder_that_there_is_not(
    dts_admin: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("users", "add", "alice", "secret=generate", "--secret-file", "nowhere/alice.secret")
    assert await dts_admin(*argv) == 2
    assert "nowhere/alice.secret" in capsys.readouterr().err
    assert "nowhere" not in os.listdir()
    assert await dts_admin("users", "get", "alice") != 0, "and nobody was made"


async def test_the_doctor_looks_at_the_key_file_of_a_server_in_this_folder(
    dts_admin: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkdir("var")
    write("var/server.key", "key")
    os.chmod("var/server.key", 0o644)
    assert await dts_admin("doctor", "--json") == 1
    [finding] = [each for each in said(capsys) if each["check"] == "key files"]
    assert "var/server.key has mode 0644" in finding["detail"]
    assert "nothing in the store can be read with another one" in finding["advice"]


async def test_a_user_from_beginning_to_end(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["alice", "roles=user,developer", "email=alice@example.org", "secret=generate"]
    assert await dts_admin("users", "add", *argv, "--secret-file", "alice.secret") == 0
    assert mode(Path("alice.secret")) == 0o600
    secret = read("alice.secret").strip()
    assert await dts_admin("users", "get", "alice", "email", "--json") == 0
    assert await dts_admin("users", "update", "alice", "roles=user", "limits.running=3", "--json") == 0
    assert await dts_admin("users", "get", "roles=user", "--json") == 0
    output = capsys.readouterr()
    assert secret not in output.out + output.err
    shown = [json.loads(line) for line in output.out.splitlines()[1:]]
    assert shown[0] == {"email": "alice@example.org"}
    assert (shown[1]["roles"], shown[1]["limits"], shown[1]["version"]) == (["user"], {"running": 3}, 2)
    assert [user["id"] for user in shown[2:]] == ["alice"]
    alice = ["--username", "alice", "--secret-file", "alice.secret"]
    assert await dts_admin("whoami", "id", "--json", user=alice) == 0
    assert said(capsys) == [{"id": "alice"}]
    assert await dts_admin("users", "delete", "alice", "--yes") == 0
    assert await dts_admin("users", "get", "alice") == 1


async def test_a_secret_comes_from_a_file_or_is_shown_once(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("bob.secret", "the secret of bob\n")
    assert await dts_admin("users", "add", "bob", "--secret-file", "bob.secret") == 0
    assert await dts_admin("login", user=["--username", "bob", "--secret-file", "bob.secret"]) == 0
    assert await dts_admin("users", "add", "carol", "secret=generate", "--json") == 0
    output = capsys.readouterr()
    told = output.err.partition("shown only now: ")[2].strip()
    assert len(told) >= 32
    assert told not in output.out
    write("carol.secret", told)
    assert await dts_admin("whoami", user=["--username", "carol", "--secret-file", "carol.secret"]) == 0


async def test_a_secret_that_is_too_short_is_not_sent(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("short.secret", "hunter2\n")
    assert await dts_admin("users", "add", "bob", "--secret-file", "short.secret") == 2
    error = capsys.readouterr().err
    assert "the secret in short.secret is too short: it needs 8 characters at least" in error
    assert "hunter2" not in error


async def test_nobody_to_type_a_secret_is_told_how_else(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await dts_admin("users", "add", "bob") == 2
    assert "give --secret-file FILE or secret=generate" in capsys.readouterr().err


async def test_a_secret_that_was_refused_leaves_no_file(dts_admin: Run) -> None:
    assert await dts_admin("users", "add", "admin", "secret=generate", "--secret-file", "new.secret") == 1
    assert "new.secret" not in os.listdir()


async def test_a_file_with_a_secret_is_not_overwritten(dts_admin: Run) -> None:
    write("old.secret", "precious secret")
    assert await dts_admin("users", "add", "bob", "secret=generate", "--secret-file", "old.secret") == 2
    assert read("old.secret") == "precious secret"


async def test_namespaces_functions_and_vhosts(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await dts_admin("namespaces", "add", "crm", "description=calls to the CRM") == 0
    assert await dts_admin("functions", "add", "crm/call", "timeout=60", "retry_on=OSError,ValueError") == 0
    assert await dts_admin("functions", "update", "crm/call", "timeout=none", "enabled=no") == 0
    assert await dts_admin("functions", "get", "namespace=crm") == 0
    shown = capsys.readouterr().out
    assert "crm/call" in shown
    assert "text/upper" not in shown
    assert await dts_admin("namespaces", "delete", "crm", "--yes") == 1
    assert "has functions" in capsys.readouterr().err
    assert await dts_admin("namespaces", "delete", "crm", "--yes", "--force") == 0
    assert await dts_admin("functions", "get", "crm/call") == 1
    write("key", "-----BEGIN KEY-----\n")
    assert await dts_admin("vhosts", "add", "w1", "address=127.0.0.1", "port=1", "ssh_key=@key", "--json") == 0
    assert "BEGIN" not in capsys.readouterr().out
    assert await dts_admin("vhosts", "update", "w1", "ssh_key=none", "--json") == 0
    assert said(capsys)[0]["has_ssh_key"] is False
    assert await dts_admin("vhosts", "delete", "w1", "--yes") == 0


async def test_schedules(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    add = ("schedules", "add")
    nightly = ("nightly", "cron=0 2 * * *", "tz=Europe/Berlin", "function=text/upper", 'args=["a"]')
    assert await dts_admin(*add, *nightly) == 0
    assert "schedule nightly added" in capsys.readouterr().out
    write("lines.txt", "a\nb\n")
    assert await dts_admin(*add, "hourly", "every=1h", "function=text/upper", "file=lines.txt", "--json") == 0
    assert (made := said(capsys)[-1])["lines"] == 2
    assert made["user"] == "admin"
    assert await dts_admin(*add, "late", "at=2001-01-01", "function=text/upper") == 1
    assert "at is over already" in capsys.readouterr().err
    assert await dts_admin(*add, "late", "every=5m", "function=text/nothing") == 1
    assert "there is no function text/nothing" in capsys.readouterr().err
    assert await dts_admin("schedules", "next", "nightly") == 0
    assert capsys.readouterr().out.count(":00:00") == 5
    assert await dts_admin("schedules", "pause", "nightly") == 0
    assert await dts_admin("schedules", "get", "paused=yes") == 0
    assert "nightly" in (shown := capsys.readouterr().out)
    assert "hourly" not in shown
    assert await dts_admin("schedules", "fire", "nightly", "--json") == 0
    [fired] = said(capsys)
    assert (fired["state"], fired["by"]) == ("started", "admin")
    assert await dts_admin("schedules", "history", "nightly", "--json") == 0
    [entry] = said(capsys)
    assert (entry["id"], entry["run"]) == (fired["id"], fired["run"])
    assert await dts_admin("runs", "get", fired["run"], "--json") == 0
    assert said(capsys)[0]["statistics"]["total"] == 1
    assert await dts_admin("schedules", "resume", "nightly") == 0
    assert "schedule nightly resumed" in capsys.readouterr().out
    assert await dts_admin("schedules", "update", "nightly", "cron=none", "every=2d", "lines=lines.txt", "--json") == 0
    changed = said(capsys)[0]
    assert (changed["cron"], changed["every"], changed["args"], changed["lines"]) == ("", 172800, None, 2)
    assert await dts_admin("schedules", "delete", "nightly", "--yes") == 0


async def test_what_destroys_needs_a_yes(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await dts_admin("namespaces", "add", "crm")
    assert await dts_admin("namespaces", "delete", "crm") == 2
    assert "give --yes if you mean it" in capsys.readouterr().err
    assert await dts_admin("--yes", "namespaces", "delete", "crm") == 0


async def test_lists_are_cut_for_people_only(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        await dts_admin("namespaces", "add", f"n{number}")
    capsys.readouterr()
    assert await dts_admin("namespaces", "get", "--limit", "2") == 0
    output = capsys.readouterr()
    assert "the first 2 namespaces" in output.err
    assert await dts_admin("namespaces", "--json") == 0
    assert len(said(capsys)) == 3 + 3  # demo, math and text come with DTS


# what is worked on


async def test_runs_and_jobs_of_everybody(site: Site, dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    alice = await site.add_user("alice")
    await dts_admin("users", "update", "alice", "namespaces=text")
    job = await alice.call("POST", "/jobs/", {"function": "text/upper", "args": ["a"]}, status=201)
    run = job.partition("-")[0]
    capsys.readouterr()
    assert await dts_admin("runs", "list", "user=alice", "--json") == 0
    assert said(capsys) == [], "a single job is no file"
    assert await dts_admin("runs", "list", "user=alice", "--all", "--json") == 0
    assert [each["id"] for each in said(capsys)] == [run]
    assert await dts_admin("runs", "list", "--own", "--all", "--json") == 0
    assert said(capsys) == []
    assert await dts_admin("jobs", "get", job) == 0
    capsys.readouterr()
    assert await dts_admin("runs", "cancel", run, "--yes", "--json") == 0
    assert said(capsys)[0]["state"] == "cancelled"
    assert (await alice.call("GET", f"/jobs/{job}"))["state"] == "cancelled"
    job = await alice.call("POST", "/jobs/", {"function": "text/upper", "args": ["a"]}, status=201)
    assert await dts_admin("jobs", "cancel", job, "--yes") == 0
    assert f"job {job} cancelled" in capsys.readouterr().out
    assert await dts_admin("runs", "cancel", job.partition("-")[0], "--yes") == 1
    assert "has finished already" in capsys.readouterr().err


async def bury_a_job(site: Site) -> None:
    """Submit a job and have its message rejected, as a worker does with what it cannot read; it becomes a letter."""
    await site.api().call("POST", "/jobs/", {"function": "text/upper", "args": ["a"]}, status=201)
    async with await site.broker.consume(jobs_queue("default"), prefetch=10) as consumer:
        await consumer.reject(await consumer.receive(10), "undecodable")
    async with within():
        while not await site.store.list_dead_letters():
            await asyncio.sleep(0.01)


async def test_a_dead_letter_is_replayed(site: Site, dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await bury_a_job(site)
    assert await dts_admin("dead", "list", "function=text/upper", "--json") == 0
    [letter] = said(capsys)
    assert letter["reason"] == "undecodable"
    assert await dts_admin("dead", "replay", "--where", "function=text/upper", "--yes", "--json") == 0
    [answer] = said(capsys)
    assert (answer["replayed"], answer["jobs"]) == (1, 1)
    assert await dts_admin("runs", "get", answer["runs"][0]) == 0
    assert await dts_admin("dead", "list") == 0
    assert "no dead letters" in capsys.readouterr().out


async def test_a_replay_needs_to_be_told_what(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await dts_admin("dead", "replay", "--all", "--yes") == 0
    assert "0 letters replayed" in capsys.readouterr().out
    for argv in ([], ["--where", "colour=red"], ["--where", "queue=q", "--all"]):
        assert await dts_admin("dead", "replay", *argv, "--yes") == 2


async def test_hosts_and_logs_are_listed(site: Site, dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    worker = WorkerState("w1-7", "w1", 1_700_000_000.0, cpu=12.5, load=1.0419921875, state="running")
    await site.store.save_heartbeats([worker])
    assert await dts_admin("hosts") == 0
    shown = capsys.readouterr().out
    assert "12 %" in shown
    assert " 1.04 " in shown
    assert await dts_admin("hosts", "host=elsewhere") == 0
    assert "no hosts" in capsys.readouterr().out
    assert await dts_admin("logs", "level=40") == 0
    assert "no log records" in capsys.readouterr().out


# the log


async def test_the_log_tells_who_did_what(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await dts_admin("namespaces", "add", "crm")
    capsys.readouterr()
    assert await dts_admin("operations", "list", "doc_id=crm", "--json") == 0
    done, begun = said(capsys)
    assert (begun["outcome"], done["outcome"], done["begun"]) == ("begun", "done", begun["seq"])
    assert (done["operator"], done["op_type"]) == ("admin", "namespaces.create")
    assert await dts_admin("operations", "get", str(done["seq"]), "--json") == 0
    assert said(capsys) == [done]
    assert await dts_admin("operations", "get", "last") == 2
    assert await dts_admin("operations", "verify") == 0
    assert f"whole: {done['seq']} entries" in capsys.readouterr().out


# doctor


async def test_doctor_finds_all_well_but_for_missing_workers(
    site: Site, dts_admin: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.management.doctor.remote.SLOW", 60.0)
    assert await dts_admin("doctor", "--json") == 1
    found = {each["check"]: each["verdict"] for each in said(capsys) if "check" in each}
    for check in ("server", "clock", "store", "broker", "sign-in", "daemons", "operation log", "consumer timeout"):
        assert found[check] == "ok", check
    assert [check for check, verdict in found.items() if verdict == "bad"] == ["workers"]
    await site.store.save_heartbeats([WorkerState("w1", "host1", time.time(), routes=("default",))])
    assert await dts_admin("doctor") == 0
    await site.store.save_heartbeats([WorkerState("w1", "host1", time.time() + 1, routes=("international",))])
    assert await dts_admin("doctor") == 1
    assert "route default" in capsys.readouterr().out


async def test_doctor_tells_what_to_do(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("open.secret", "the secret of admin")
    os.chmod("open.secret", 0o644)
    assert await dts_admin("doctor", user=["--username", "admin", "--secret-file", "open.secret"]) == 1
    shown = capsys.readouterr().out
    assert "chmod 600 open.secret" in shown
    assert "check --username and --secret-file" in shown


async def test_doctor_of_a_server_that_is_down(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await dts_admin("--url", "http://127.0.0.1:1", "doctor") == 1
    assert "start it (python -m dts.server" in capsys.readouterr().out


# ways in


async def test_commands_from_standard_input_stop_at_the_first_failure(
    dts_admin: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "# set up\nnamespaces add crm\n\nnamespaces add crm\nnamespaces add never\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert await dts_admin() == 1
    output = capsys.readouterr()
    assert "stopped at line 4" in output.err
    assert await dts_admin("namespaces", "get", "never") == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("namespaces delete crm --yes\nexit\nnamespaces add never\n"))
    assert await dts_admin() == 0


async def test_help_needs_no_server(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["help", "users", "add"], ["users", "add", "--help"]):
        assert await dts_admin("--url", "http://127.0.0.1:1", *argv, user=[]) == 0
        assert "users add alice roles=user,developer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "status", "reason"),
    [
        (["usrs", "get"], 2, "did you mean users?"),
        (["users", "add", "Alice", "secret=generate"], 1, "is not"),
        (["functions", "add", "nowhere/f"], 1, "nowhere"),
        (["functions", "deploy", "a/b", "f.py"], 2, "cannot be read"),
        (["vhosts", "init", "w1"], 1, "there is no host w1"),
        (["users", "delete", "admin", "--yes"], 1, "last administrator"),
        (["users", "get", ".."], 2, "is not an id"),
    ],
)
async def test_what_cannot_be_done_is_said(
    argv: list[str], status: int, reason: str, dts_admin: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await dts_admin(*argv) == status
    assert reason in capsys.readouterr().err


async def test_without_credentials_all_three_ways_are_named(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await dts_admin("users", "get", user=[]) == 2
    said = capsys.readouterr().err
    for way in ("--username", "DTS_USERNAME", "credentials.toml"):
        assert way in said


async def test_credentials_can_be_kept(site: Site, dts_admin: Run, tmp_path: Path) -> None:
    kept = tmp_path / ".config" / "dts" / "credentials.toml"
    assert await dts_admin("login", "--save") == 0
    assert mode(kept) == 0o600
    assert f'url = "{site.url}"' in kept.read_text()
    assert await dts_admin("login", "--save") == 2  # it is there: nobody can be asked whether to replace it
    assert await dts_admin("login", "--save", "--yes") == 0
    assert await dts_admin("whoami", user=[]) == 0


async def test_a_new_secret_for_oneself(dts_admin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await dts_admin("rotate", "secret=generate", "--secret-file", "new.secret", "grace=60") == 0
    assert "admin has a new secret; the one before is valid until 2" in capsys.readouterr().out
    assert await dts_admin("whoami", user=["--username", "admin", "--secret-file", "new.secret"]) == 0
    assert await dts_admin("whoami") == 0  # the grace time
