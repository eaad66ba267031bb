"""A message names the version that its jobs run: the worker has it, fetches it, or says why it cannot."""

from __future__ import annotations

import asyncio
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dts.broker import Message
from dts.errors import FunctionMissing, InvalidInput, ServerUnavailable
from dts.wire import codec
from dts.wire.archive import SHORT, Source, SourceFile, version_of
from dts.wire.dts_pb2 import FAILED, JobBatch, Options
from dts.wire.function_source import check_requirements, requirements_of
from dts.wire.queues import DEAD, jobs_queue
from dts.worker.link.versions import VersionFolder
from dts.worker.versions import environment, library
from dts.worker.versions.folder import KEPT_VERSIONS, prune_versions, write_version
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]


def source(text: str, **files: str) -> dict[str, SourceFile]:
    named = {"stats.py": text, **{name.replace("_", "."): each for name, each in files.items()}}
    return {name: SourceFile(each.encode()) for name, each in named.items()}


def running(version: str) -> Options:
    return Options(version=version)


class Shelf:
    """A server that has some sources, may be away, and counts what it is asked for."""

    def __init__(self, *sources: Source) -> None:
        self.sources = {version_of(each): each for each in sources}
        self.asked: list[str] = []
        self.away = False

    async def fetch(self, function: str, version: str) -> Source:
        self.asked.append(version)
        if self.away:
            raise ServerUnavailable("it is away")
        if version not in self.sources:
            raise FunctionMissing(f"there is no version {version[:SHORT]} of {function}")
        return self.sources[version]


async def test_jobs_run_the_version_that_their_message_names(bench: Bench) -> None:
    one, two = source("def main(): return 1"), source("def main(): return 2")
    shelf = Shelf(one, two)
    bench.write("text/stats", "def main(): return 0\n")
    async with Worker(bench.settings(), bench.broker, fetcher=shelf):
        for each, expected in ((one, 1), (two, 2), (one, 1)):
            version = version_of(each)
            [result] = await bench.run("text/stats", [], options=running(version))
            assert value(result) == expected
            assert bench.batches[-1].version == version[:SHORT]
        [result] = await bench.run("text/stats", [])
        assert value(result) == 0
    assert sorted(shelf.asked) == sorted([version_of(one), version_of(two)])  # each was fetched once


async def test_a_version_on_disk_is_used_without_asking_anybody(bench: Bench) -> None:
    version = version_of(source("def main(): return 1"))
    folder = VersionFolder(Path(bench.settings().versions), version)
    folder.path.parent.mkdir()
    write_version(folder, "text", source("def main(): return 1"), None)
    async with Worker(bench.settings(), bench.broker):
        [result] = await bench.run("text/stats", [], options=running(version))
    assert value(result) == 1


async def test_the_same_files_are_versions_in_two_namespaces(bench: Bench) -> None:
    made = source("def main(): return __name__")
    shelf = Shelf(made)
    async with Worker(bench.settings(processes=2), bench.broker, fetcher=shelf):
        runs = [await bench.send(f"{ns}/stats", [], options=running(version_of(made))) for ns in ("staging", "prod")]
        for run, ns in zip(runs, ("staging", "prod"), strict=True):
            assert value((await bench.wait(run, 1))[0]) == f"dts.worker.functions.{ns}.stats"
        for ns in ("later", "prod"):
            [result] = await bench.run(f"{ns}/stats", [], options=running(version_of(made)))
            assert value(result) == f"dts.worker.functions.{ns}.stats"
    assert len(shelf.asked) == 3
    assert os.listdir(bench.settings().versions) == [version_of(made)]


async def test_a_worker_notes_which_versions_it_uses(bench: Bench) -> None:
    version = version_of(source("def main(): return 1"))
    folder = VersionFolder(Path(bench.settings().versions), version)
    folder.path.parent.mkdir()
    write_version(folder, "text", source("def main(): return 1"), None)
    os.utime(folder.path, (1e9, 1e9))
    async with Worker(bench.settings(), bench.broker):
        await bench.run("text/stats", [], options=running(version))
    assert folder.path.stat().st_mtime > 1e9


async def test_a_version_comes_with_its_helpers_and_its_files(bench: Bench) -> None:
    text = (
        "import importlib.resources, os\n"
        "import words\n"
        "from . import words as same\n"
        "from dts.worker.functions.text import words as again\n"
        "def main(): return [words.WORD, same.WORD, again.WORD,"
        " importlib.resources.files(__package__).joinpath('data.txt').read_text()]\n"
    )
    made = source(text, words_py="WORD = 'w'", data_txt="d")
    async with Worker(bench.settings(), bench.broker, fetcher=Shelf(made)):
        [result] = await bench.run("text/stats", [], options=running(version_of(made)))
    assert value(result) == ["w", "w", "w", "d"]


async def test_no_version_sees_what_another_one_did(bench: Bench) -> None:
    one = source("import sys\nsys.left = 1\ndef main(): return sys.left")
    two = source("import sys\ndef main(): return hasattr(sys, 'left')")
    bench.write("text/stats", "import sys\ndef main(): return hasattr(sys, 'left')\n")
    async with Worker(bench.settings(), bench.broker, fetcher=Shelf(one, two)):
        assert value((await bench.run("text/stats", [], options=running(version_of(one))))[0]) == 1
        assert value((await bench.run("text/stats", [], options=running(version_of(two))))[0]) is False
        assert value((await bench.run("text/stats", []))[0]) is False


async def test_async_messages_of_two_versions_do_not_share_a_child(bench: Bench) -> None:
    text = "import asyncio, os\nasync def main(n):\n    await asyncio.sleep(0.1)\n    return [{}, os.getpid()]\n"
    one, two = source(text.format(1)), source(text.format(2))
    async with Worker(bench.settings(processes=2), bench.broker, fetcher=Shelf(one, two)):
        runs = [
            (await bench.send("text/stats", [n], options=running(version_of(each))), number)
            for n in range(4)
            for number, each in ((1, one), (2, two))
        ]
        found = [(number, value((await bench.wait(run, 1))[0])) for run, number in runs]
    assert all(number == answer[0] for number, answer in found)
    pids = [{pid for _, (which, pid) in found if which == number} for number in (1, 2)]
    assert not pids[0] & pids[1]


async def test_a_server_that_is_away_for_a_while_costs_no_job(bench: Bench) -> None:
    made = source("def main(): return 1")
    shelf = Shelf(made)
    shelf.away = True
    async with Worker(bench.settings(), bench.broker, fetcher=shelf):
        run = await bench.send("text/stats", [], options=running(version_of(made)))
        await until(lambda: len(shelf.asked) >= 3)
        shelf.away = False
        assert value((await bench.wait(run, 1))[0]) == 1


async def test_while_a_version_is_fetched_other_jobs_run(bench: Bench) -> None:
    made = source("def main(): return 1")
    shelf = Shelf(made)
    shelf.away = True
    bench.write("other/quick", "def main(): return 2\n")
    async with Worker(bench.settings(processes=2), bench.broker, fetcher=shelf):
        run = await bench.send("text/stats", [], options=running(version_of(made)))
        await until(lambda: bool(shelf.asked))
        assert value((await bench.run("other/quick", []))[0]) == 2
        shelf.away = False
        assert value((await bench.wait(run, 1))[0]) == 1


async def test_messages_that_wait_for_a_version_leave_their_slots_to_others(bench: Bench) -> None:
    made = source("def main(): return 1")
    shelf = Shelf(made)
    shelf.away = True
    bench.write("other/quick", "def main(): return 2\n")
    worker = Worker(bench.settings(), bench.broker, fetcher=shelf)
    async with worker:
        runs = [await bench.send("text/stats", [], options=running(version_of(made))) for _ in range(5)]
        await until(lambda: worker.versions.waiting == len(runs))
        assert value((await bench.run("other/quick", []))[0]) == 2
        shelf.away = False
        for run in runs:
            assert value((await bench.wait(run, 1))[0]) == 1


async def test_a_worker_that_may_take_nothing_gives_back_what_waits_for_a_version(bench: Bench) -> None:
    made = source("def main(): return 1")
    shelf = Shelf(made)
    shelf.away = True
    worker = Worker(bench.settings(), bench.broker, fetcher=shelf)
    async with worker:
        run = await bench.send("text/stats", [], options=running(version_of(made)))
        await until(lambda: worker.versions.waiting == 1)
        await worker.set_shortage("memory")
        shelf.away = False
        await until(lambda: worker.idle and not worker.versions.is_preparing)
        await worker.deliveries.wait_idle()
        assert (await bench.broker.depth(jobs_queue("default"))).ready == 1
        await worker.set_shortage("")
        assert value((await bench.wait(run, 1))[0]) == 1


async def test_jobs_of_a_version_that_nobody_has_fail_and_say_so(bench: Bench) -> None:
    unknown = "0" * 64
    async with Worker(bench.settings(), bench.broker, fetcher=Shelf()):
        [result] = await bench.run("text/stats", [], options=running(unknown))
        assert result.status == FAILED
        assert result.error.type == "ImportFailed"
        assert "there is no version 000000000000 of text/stats" in result.error.message


async def test_a_version_that_could_not_be_had_runs_once_it_can(bench: Bench) -> None:
    made = source("def main(): return 1")
    shelf = Shelf()
    async with Worker(bench.settings(), bench.broker, fetcher=shelf):
        [result] = await bench.run("text/stats", [], options=running(version_of(made)))
        assert result.status == FAILED
        shelf.sources[version_of(made)] = made
        [result] = await bench.run("text/stats", [], options=running(version_of(made)))
        assert value(result) == 1


async def test_a_version_that_is_pushed_meanwhile_is_taken(bench: Bench) -> None:
    made = source("def main(): return 1")
    folder = VersionFolder(Path(bench.settings().versions), version_of(made))
    worker = Worker(bench.settings(), bench.broker)
    async with worker:
        run = await bench.send("text/stats", [], options=running(version_of(made)))
        await until(lambda: worker.versions.is_preparing)
        folder.path.parent.mkdir()
        await asyncio.to_thread(write_version, folder, "text", made, None)
        assert value((await bench.wait(run, 1))[0]) == 1


async def test_without_a_server_a_missing_version_is_waited_for_and_then_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_PATIENCE", 0.0)
    async with Worker(bench.settings(), bench.broker):
        [result] = await bench.run("text/stats", [], options=running("1" * 64))
    assert "was not deployed to this host" in result.error.message


async def test_a_stop_gives_back_what_waits_for_a_version(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    shelf.away = True
    async with Worker(bench.settings(), bench.broker, fetcher=shelf):
        await bench.send("text/stats", [], options=running("1" * 64))
        await until(lambda: bool(shelf.asked))
    assert (await bench.broker.depth(jobs_queue("default"))).ready == 1
    assert "not drained" not in caplog.text


@pytest.mark.parametrize("header", ["", "2" * 64, "../../../etc", "1" * 63])
async def test_a_message_whose_header_names_another_version_is_a_dead_letter(bench: Bench, header: str) -> None:
    shelf = Shelf()
    shelf.sources = dict.fromkeys(("1" * 64, "2" * 64), source("def main(): return 1"))
    batch = JobBatch(block="r-0", run="r", function="text/stats", options=running("1" * 64))
    batch.jobs.add(index=0)
    headers: dict[str, str | int] = {"block": "r-0", "run": "r", "function": "text/stats", "count": 1}
    message = Message(*codec.encode(batch), {**headers, **({"version": header} if header else {})})
    worker = Worker(bench.settings(), bench.broker, fetcher=shelf)
    async with worker, await bench.broker.consume(DEAD, prefetch=1) as dead:
        await bench.broker.publish(jobs_queue("default"), [message])
        async with within():
            [letter] = await dead.receive(1)
        assert "another namespace or version" in str(letter.message.headers)


def wheel(folder: Path, name: str, version: str) -> None:
    """A package with one module that says its version."""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = '{version}'\n")
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


async def test_requirements_that_differ_are_met_side_by_side(bench: Bench, tmp_path: Path) -> None:
    for number in ("1.0", "2.0"):
        wheel(tmp_path, "dtsprobe", number)
    text = (
        "import subprocess, sys, dtsprobe\n"
        "def main():\n"
        "    other = subprocess.run([sys.executable, '-c', 'import dtsprobe; print(dtsprobe.VERSION)'],"
        " capture_output=True, text=True)\n"
        "    return [dtsprobe.VERSION, other.stdout.strip()]\n"
    )
    old, new = (source(text, requirements_txt=f"dtsprobe=={number}  # why\n") for number in ("1.0", "2.0"))
    none = source(text.replace("subprocess, sys, dtsprobe", "dtsprobe"))
    bad = source(text, requirements_txt="dtsprobe==3.0\n")
    clash = source(text, requirements_txt="msgspec==0.0.1\n")
    settings = bench.settings(installer_options=("--no-index", "--find-links", str(tmp_path)), processes=2)
    async with Worker(settings, bench.broker, fetcher=Shelf(old, new, none, bad, clash)):
        for each, number in ((old, "1.0"), (new, "2.0")):
            [result] = await bench.run("text/stats", [], options=running(version_of(each)))
            assert value(result) == [number, number]
        [result] = await bench.run("text/stats", [], options=running(version_of(none)))
        assert result.error.type == "ImportFailed"  # what others require is not there for it
        for each, said in ((bad, "dtsprobe"), (clash, "msgspec")):
            [result] = await bench.run("text/stats", [], options=running(version_of(each)))
            assert "its requirements cannot be installed" in result.error.message
            assert said in result.error.message
    again = source(text + "# v2\n", requirements_txt="dtsprobe==1.0  # why\n")
    environments = Path(settings.versions) / "environments"
    before = {path.name for path in environments.iterdir() if path.is_dir()}
    async with Worker(settings, bench.broker, fetcher=Shelf(again)):
        [result] = await bench.run("text/stats", [], options=running(version_of(again)))
        assert value(result) == ["1.0", "1.0"]
    assert {path.name for path in environments.iterdir() if path.is_dir()} == before


@pytest.mark.parametrize(
    "line",
    [
        "pandas",
        "pandas>=2,<3",
        "a[b,c]==1.0 ; python_version < '3.12'",
        "# x",
        "",
        "a  # b",
        "a==1 --hash=sha256:0a \\\n  --hash=sha256:1b",
    ],
)
def test_packages_may_be_required(line: str) -> None:
    check_requirements({"requirements.txt": SourceFile(line.encode())})


@pytest.mark.parametrize(
    "line",
    [
        *("--index-url http://evil", "-e .", "./local", "a @ http://evil/a.zip", "git+https://evil/x", "-r other"),
        *("a==1 \\\n --no-binary :all:", "file:///etc", "a; b @ c", "$(id)", "a`id`"),
        *("# x \\\n--index-url https://evil/simple", "a\r\n# x \\\r\na @ https://evil/a.tar.gz\r\n# y"),
        *(
            "a==${SECRET}",
            "a; b \\",
            "a --hash=sha256:0a -r b",
            "a>1\u0145--index-url=evil",
            "a" + " " * 30_000 + "@",
            "a" + " <" * 10_000,
        ),
    ],
)
def test_what_would_run_code_of_its_own_may_not(line: str) -> None:
    with pytest.raises(InvalidInput, match="only packages of an index"):
        check_requirements({"requirements.txt": SourceFile(line.encode())})


def test_an_installer_gets_what_was_checked_and_nothing_else() -> None:
    text = b"# coding: utf-7\na >= 1 \\\n  ; python_version > '3'  # why \\\nb\n# x \\\nc\\\n# y\n\n"
    made = {"requirements.txt": SourceFile(text)}
    check_requirements(made)
    assert requirements_of(made) == b"a >= 1 ; python_version > '3'\nc\n"
    assert requirements_of({"requirements.txt": SourceFile(b"# nothing\n")}) == b""


async def test_environments_that_are_waited_for_take_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    begun, go, made = asyncio.Event(), asyncio.Event(), []

    async def make(place: Path, requirements: bytes, arguments: Sequence[str]) -> None:
        begun.set()
        await go.wait()
        await asyncio.to_thread(place.mkdir)
        await asyncio.to_thread((place / ".dts-complete").touch)
        made.append(requirements)

    monkeypatch.setattr(environment, "_make", make)
    async with within():
        first = asyncio.create_task(environment.ensure_environment(tmp_path, b"a\n", ()))
        await begun.wait()
        others = [asyncio.create_task(environment.ensure_environment(tmp_path, b"a\n", ())) for _ in range(3)]
        await asyncio.to_thread(tmp_path.stat)  # behind all that they have asked of the one thread
        go.set()
        assert len({await first, *(await asyncio.gather(*others))}) == 1
    assert made == [b"a\n"]


def test_a_version_that_is_half_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = source("def main(): return 1", data_txt="d")
    folder = VersionFolder(tmp_path, version_of(made))
    real, left = os.fsync, [0]

    def failing(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    for number in (1, 2, 3, 4):
        left[0] = number
        with pytest.raises(OSError, match="No space"):
            write_version(folder, "text", made, None)
        assert not folder.has("text")
        assert list(tmp_path.iterdir()) == []
    left[0] = 0
    write_version(folder, "text", made, None)
    write_version(folder, "text", made, None)  # as another worker of the host may do at the same time
    assert sorted(path.name for path in (folder.functions / "text").iterdir()) == ["data.txt", "stats.py"]


def test_what_was_not_used_for_long_goes_and_the_latest_stay(tmp_path: Path) -> None:
    made = [source(f"def main(): return {number}") for number in range(KEPT_VERSIONS + 3)]
    folders = [VersionFolder(tmp_path, version_of(each)) for each in made]
    environments = [tmp_path / "environments" / name for name in ("needed", "unneeded", "young")]
    for path in environments:
        path.mkdir(parents=True)
    for number, (folder, each) in enumerate(zip(folders, made, strict=True)):
        write_version(folder, "text", each, environments[0] if number == 5 else None)
        os.utime(folder.path, (1e9 + number, 1e9 + number))
    (tmp_path / ".half.tmp").mkdir()
    (tmp_path / ".pushed.zip").touch()
    for path in (*environments[:2], tmp_path / ".half.tmp", tmp_path / ".pushed.zip"):
        os.utime(path, (1e9, 1e9))
    folders[0].note_use()
    prune_versions(tmp_path)
    assert [folder.has("text") for folder in folders] == [True, *[False] * 3, *[True] * (KEPT_VERSIONS - 1)]
    assert [path.exists() for path in environments] == [True, False, True]
    assert not (tmp_path / ".half.tmp").exists()
    assert not (tmp_path / ".pushed.zip").exists()
