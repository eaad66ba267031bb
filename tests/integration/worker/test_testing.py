"""The kit for tests of functions: they run as in a worker, without a server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dts import testing
from dts.broker import Message
from dts.errors import InvalidInput, InvalidName, JobFailed
from dts.local import worker as local_worker


def write(folder: Path, code: str) -> Path:
    path = folder / "functions" / "own" / "f.py"
    path.parent.mkdir(parents=True)
    path.write_text(code)
    return path


def test_it_returns_what_the_function_does_with_its_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        "import os\nfrom dts.worker import context\n"
        "def main(n, *, more):\n    yield n\n    return [context.function, context.attempt, os.getpid(), more]\n",
    )
    monkeypatch.chdir(tmp_path)
    ended = testing.outcome("own/f", 7, kwargs={"more": [None]})
    name, attempt, pid, more = ended.result
    assert (name, attempt, more, ended.partials, ended.error) == ("own/f", 1, [None], [7], {})
    assert pid != os.getpid()


async def test_attempts_and_limits_are_those_of_a_worker_also_in_a_running_loop(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "import os, signal, time\nfrom dts.worker import Retry, context\n"
        "def main(what):\n"
        "    if what == 'retry' and context.attempt < 3: raise Retry(delay=3600)\n"
        "    if what == 'die': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if what == 'fail': raise ValueError('no')\n"
        "    while what == 'hang': time.sleep(0.01)\n"
        "    return context.attempt\n",
    )
    assert testing.run(path, "retry") == 3
    hung, died, done = testing.run_many(path, [["hang"], ["die"], ["go"]], timeout=3)
    assert (hung.error["type"], died.error["reason"], done.result) == ("Timeout", "poison", 1)
    with pytest.raises(JobFailed, match="no") as caught:
        testing.run(path, "fail", max_attempts=2)
    assert caught.value.error["type"] == "ValueError"


def test_main_many_gets_the_calls_together(tmp_path: Path) -> None:
    path = write(tmp_path, "def main_many(items): return [[len(items), *item] for item in items]")
    assert [each.result for each in testing.run_many(path, [[1], [2], [3]], batch=2)] == [[2, 1], [2, 2], [1, 3]]
    assert testing.run_many(path, []) == []


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        testing.run("nothing")
    with pytest.raises(InvalidInput, match="no option patience: the options are soft_timeout"):
        testing.run("own/f", patience=1)
    with pytest.raises(InvalidInput, match="cannot have"):
        testing.run("own/f", max_attempts="many")
    with pytest.raises(InvalidInput, match="argument"):
        testing.run("own/f", object())
    with pytest.raises(InvalidInput, match="too many"):
        testing.run_many("own/f", [[]] * 5000)


def test_jobs_of_a_message_that_no_child_can_read_have_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(body: bytes, encoding: str, headers: dict[str, str | int]) -> Message:
        return Message(b"\xff", "", headers) if "number" in headers else Message(body, encoding, headers)

    monkeypatch.setattr(local_worker, "Message", spoil)
    path = write(tmp_path, "def main(n): return n")
    ended = testing.run_many(path, [[1], [2]])
    assert [(each.error["type"], each.error["reason"]) for each in ended] == [("Poison", "poison")] * 2
    assert ended[0].error["message"].startswith("no process could run the job: ")
