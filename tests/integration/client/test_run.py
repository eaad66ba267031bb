"""DtsClient against a small real server that keeps the REST contract, and breaks it where a test says so."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from dts.auth import KeccakAuthenticator, Request, body_digest, derive_key
from dts.client import Call, DtsClient, OutputFile, RowFormat, RowWriter, TextFileIOComponent
from dts.errors import ClientError, InvalidInput, RequestRefused, ServerUnavailable
from dts.model import bitmap, new_id
from dts.wire import codec, dts_pb2

BLOCK_SIZE = 128
MAX_BODY = 64 * 1024

Fault = Callable[["Handler"], bool]
"""Does something to a request before it is handled; whether it has answered it."""


class FakeServer:
    """One server, one user, every job done at once: `upper` of the first argument, an error when it is `bad`."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.nonces: set[str] = set()
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.blocks: dict[int, dts_pb2.JobBatch] = {}
        self.block_jobs: list[int] = []  # how many jobs a block may have: at first, after the first block, …
        self.parts: dict[str, dts_pb2.ResultPart] = {}
        self.all_parts: dict[str, dts_pb2.ResultPart] = {}
        self.collected: list[str] = []
        self.jobs: dict[str, str] = {}
        self.state = "none"
        self.bad = "bad"
        self.job_answer: dict[str, Any] = {"success": True, "result": 1}
        self.opened: dict[str, Any] = {}
        self.paused = False
        self.run_id = new_id()
        self.progress = asyncio.Event()
        self.sock, self.port = bind_unused_port(address="127.0.0.1")
        self.http = HTTPServer(Application([(r".*", Handler, {"server": self})], log_function=lambda _: None))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.http.add_socket(self.sock)

    def statistics(self) -> dict[str, int]:
        """As the server gives them: everything has succeeded, or been cancelled where its results are not there."""
        total = sum(len(batch.jobs) for batch in self.blocks.values())
        done = sum(bitmap.from_bytes(part.jobs).bit_count() for part in self.all_parts.values())
        return {"succeeded": done, "failed": 0, "cancelled": 0, "total": total}

    def work(self, number: int, batch: dts_pb2.JobBatch) -> None:
        """Do the jobs of a block: its results in two parts."""
        for part, jobs in enumerate((batch.jobs[:2], batch.jobs[2:])):
            results = dts_pb2.ResultBatch(worker="w1", version="v1", started=1700000000.0)
            for job in jobs:
                argument = (msgspec.json.decode(job.args or b"[]") or [""])[0]
                result = results.results.add(index=job.index, duration=0.0004, status=dts_pb2.SUCCEEDED)
                if argument == self.bad:
                    result.status = dts_pb2.FAILED
                    result.error.CopyFrom(dts_pb2.Error(type="ValueError", message='a "bad" line', traceback="Tr…\n"))
                else:
                    result.value = msgspec.json.encode(str(argument).upper())
            encoded = codec.encode(results)
            count = bitmap.from_indices(job.index for job in jobs)
            if count:
                self.parts[f"{number}.{part}"] = self.all_parts[f"{number}.{part}"] = dts_pb2.ResultPart(
                    receipt=f"{number}.{part}",
                    block=number,
                    jobs=bitmap.to_bytes(count, len(batch.jobs)),
                    body=encoded.body,
                    content_encoding=encoded.content_encoding,
                )


class Handler(RequestHandler):
    """Every request: checks the signature, lets a fault have its way, then does what the contract says."""

    def initialize(self, server: FakeServer) -> None:
        self.server = server

    def prepare(self) -> None:
        request = self.request
        claim = KeccakAuthenticator.parse(request.headers.get("Authorization"))
        signed = Request(request.method or "", request.host, request.path, request.query, request.headers)
        assert KeccakAuthenticator.verify(claim, derive_key("alice", "secret"), signed)
        assert claim.digest == body_digest(request.body)
        assert claim.nonce not in self.server.nonces
        self.server.nonces.add(claim.nonce)
        self.what = f"{request.method} {request.path.replace(self.server.run_id, 'ID')}"
        self.server.requests.append(self.what)
        faults = self.server.faults[self.what]
        if faults and faults.popleft()(self):
            return

    def result(self, result: Any, status: int = 200) -> None:
        self.set_status(status)
        self.finish(msgspec.json.encode({"result": result}))

    def error(self, status: int, code: str, message: str, **headers: str) -> bool:
        for name, value in headers.items():
            self.set_header(name.replace("_", "-"), value)
        self.set_status(status)
        self.finish(msgspec.json.encode({"error": {"code": code, "message": message}}))
        return True

    def post(self) -> None:
        server, params = self.server, msgspec.json.decode(self.request.body)["params"]
        if self.what == "POST /runs/":
            if params["function"] == "text/unknown":
                self.error(404, "function_not_found", "there is no function text/unknown")
                return
            server.state, server.opened = "open", params
            info = {"id": server.run_id, "function": params["function"], "block_size": BLOCK_SIZE, "max_body": MAX_BODY}
            self.result({**info, **self.most_jobs()}, 201)
        elif self.what == "POST /jobs/":
            key = self.request.headers["Idempotency-Key"]
            self.result(server.jobs.setdefault(key, f"{server.run_id}-{len(server.jobs)}"), 201)
        elif self.what == "POST /jobs/collected":
            server.collected += params["ids"]
            self.result({"jobs": len(params["ids"])})
        else:
            server.collected += params["receipts"]
            for receipt in params["receipts"]:
                server.parts.pop(receipt, None)
            self.result({})

    def put(self) -> None:
        number = int(self.request.path.rpartition("/")[2])
        encoding = self.request.headers.get("Content-Encoding", "")
        batch = codec.decode(dts_pb2.JobBatch, self.request.body, encoding, max_size=MAX_BODY)
        assert [job.index for job in batch.jobs] == list(range(len(batch.jobs)))
        assert 0 < len(batch.jobs) <= BLOCK_SIZE
        known = self.server.blocks.setdefault(number, batch)
        assert known == batch
        if known is batch:
            self.server.work(number, batch)
            self.server.progress.set()
        self.result(self.most_jobs(), 201 if known is batch else 200)

    def most_jobs(self) -> dict[str, int]:
        return {"block_jobs": self.server.block_jobs.pop(0)} if self.server.block_jobs else {}

    def patch(self) -> None:
        self.server.state = msgspec.json.decode(self.request.body)["params"]["state"]
        self.result({})

    def delete(self) -> None:
        self.server.state = "cancelled"
        self.result({})

    def get(self) -> None:
        server = self.server
        if self.what == "GET /runs/ID/results":
            assert self.request.headers["Accept"] == "application/x-protobuf"
            page = dts_pb2.ResultPage(parts=list(server.parts.values())[:3])
            self.finish(page.SerializeToString())
        elif self.what == "GET /runs/ID":
            finished = server.state != "open" and not server.parts
            about = {"id": server.run_id, "function": "text/upper", "block_size": BLOCK_SIZE}
            how_far = {"paused": server.paused, "finished": finished, "statistics": server.statistics()}
            self.result({**about, "state": server.state, **how_far})
        elif self.what == "GET /runs/ID/blocks":
            after = int(self.get_query_argument("after"))
            sizes = {number: len(batch.jobs) for number, batch in sorted(server.blocks.items()) if number > after}
            self.result([{"block": number, "jobs": jobs, "ended": jobs} for number, jobs in sizes.items()])
        elif self.what.endswith("/results"):
            block = int(self.what.split("/")[-2])
            page = dts_pb2.ResultPage(parts=[part for part in server.all_parts.values() if part.block == block])
            self.finish(page.SerializeToString())
        else:
            self.result({"id": self.request.path.rpartition("/")[2], "state": "succeeded", **server.job_answer})


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.client.transport.FIRST_DELAY", 0.001)
    monkeypatch.setattr("dts.client.run.send.IDLE_FLUSH", 0.005)


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    server.start()
    yield server
    server.http.stop()
    await server.http.close_all_connections()


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[DtsClient]:
    async with make_client(server.url) as client:
        yield client


def make_client(url: str, **options: Any) -> DtsClient:
    return DtsClient("alice", "secret", url, snooze_interval=0.0, **options)


def refuse(status: int, **headers: str) -> Fault:
    return lambda handler: handler.error(status, "code", f"status {status}", **headers)


def drop_the_answer(handler: Handler) -> bool:
    """Do what was asked, then close the connection without an answer."""
    stream = handler.detach()
    handler.result = lambda result, status=200: stream.close()  # type: ignore[method-assign]
    {"PUT": handler.put, "POST": handler.post}[handler.request.method or ""]()
    return True


def forget(handler: Handler) -> bool:
    """Say yes, and do nothing."""
    handler.result({})
    return True


async def run_lines(client: DtsClient, tmp_path: Path, text: str | bytes, **options: Any) -> list[dict[str, Any]]:
    """The rows of a run over `text`, by line; there must be one a line."""
    infile, outfile = tmp_path / "in.txt", OutputFile(tmp_path / "out.json")
    infile.write_bytes(text if isinstance(text, bytes) else text.encode())
    summary = await client.run("text/upper", TextFileIOComponent(infile), RowWriter(outfile, **options))
    outfile.close()
    rows = [msgspec.json.decode(row) for row in (tmp_path / "out.json").read_bytes().splitlines()]
    rows.sort(key=lambda row: row["line"])
    assert [row["line"] for row in rows] == list(range(1, summary.lines + 1))
    assert summary.succeeded == sum(row["success"] for row in rows)
    assert summary.failed == summary.lines - summary.succeeded
    return rows


async def test_every_line_has_its_row(client: DtsClient, server: FakeServer, tmp_path: Path) -> None:
    rows = await run_lines(client, tmp_path, "".join(f"line {n}\n" for n in range(1000)))
    assert [row["result"] for row in rows] == [f"LINE {n}" for n in range(1000)]
    assert server.state == "closed"
    assert not server.parts


async def test_blocks_grow_up_to_the_servers_size(client: DtsClient, server: FakeServer, tmp_path: Path) -> None:
    await run_lines(client, tmp_path, "x\n" * 500)
    assert [len(server.blocks[number].jobs) for number in range(5)] == [64, 128, 128, 128, 52]


async def test_blocks_are_as_large_as_limits_allow_by_now(
    client: DtsClient, server: FakeServer, tmp_path: Path
) -> None:
    server.block_jobs = [5, 5, 1000]
    await run_lines(client, tmp_path, "x\n" * 400)
    sizes = [len(server.blocks[number].jobs) for number in range(len(server.blocks))]
    assert sizes[0] == 5
    assert max(sizes) == BLOCK_SIZE, "and the rest of the run is not slowed"
    assert sum(sizes) == 400


async def test_rows_look_as_documented(client: DtsClient, tmp_path: Path) -> None:
    await run_lines(client, tmp_path, "abc\nbad\n")
    assert (tmp_path / "out.json").read_text() == (
        '{"line": 1, "success": true, "result": "ABC", "duration": 0.000400}\n'
        '{"line": 2, "success": false, "error": {"type": "ValueError", "message": "a \\"bad\\" line", '
        '"traceback": "Tr…\\n"}, "duration": 0.000400}\n'
    )


async def test_more_fields_are_added(client: DtsClient, server: FakeServer, tmp_path: Path) -> None:
    names = ("id", "args", "kwargs", "attempt", "worker", "version", "started")
    rows = await run_lines(client, tmp_path, "x\n" * 65, row_format=RowFormat(names))
    assert list(rows[64])[4:] == list(names)
    assert rows[64]["id"] == f"{server.run_id}-{BLOCK_SIZE}"
    assert rows[64]["args"] == ["x"]
    assert rows[64]["worker"] == "w1"


async def test_failures_go_to_their_own_file(client: DtsClient, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\nbad\nb\n")
    out, errors = OutputFile(tmp_path / "out"), OutputFile(tmp_path / "err")
    errors.open()
    await client.run("text/upper", TextFileIOComponent(tmp_path / "in.txt"), RowWriter(out, errors))
    assert (tmp_path / "out").read_text().count("true") == 2
    assert (tmp_path / "err").read_text().startswith('{"line": 2, "success": false')


async def test_an_empty_file_is_a_run_of_no_lines(client: DtsClient, server: FakeServer, tmp_path: Path) -> None:
    assert await run_lines(client, tmp_path, "") == []
    assert server.state == "closed"


async def test_unreadable_lines_are_failed_rows(client: DtsClient, server: FakeServer, tmp_path: Path) -> None:
    lines = [b"a", b"\xff", b"x" * MAX_BODY, b"y" * (MAX_BODY // 2), b"z" * (MAX_BODY * 5), b"", b"end"]
    rows = await run_lines(client, tmp_path, b"\r\n".join(lines))
    assert [row["success"] for row in rows] == [True, False, False, True, False, True, True]
    assert {row["error"]["type"] for row in rows if not row["success"]} == {"ComponentError"}
    assert rows[6]["result"] == "END"


async def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    server = FakeServer()
    server.sock.close()

    def notify(sentence: str) -> None:
        said.append(sentence)
        if "waiting" in sentence:
            server.sock = socket.create_server(("127.0.0.1", server.port))
            server.sock.setblocking(False)
            server.start()

    async with make_client(server.url, notify=notify) as client:
        assert len(await run_lines(client, tmp_path, "a\nb\n")) == 2
    server.http.stop()
    assert said == [f"server {server.url} is not reachable (connection refused); waiting", "server is back"]


async def test_a_server_that_stays_away_is_given_up(tmp_path: Path) -> None:
    server = FakeServer()
    server.sock.close()
    async with make_client(server.url, give_up_after=0.01) as client:
        with pytest.raises(ServerUnavailable, match=r"not reachable \(connection refused\); gave up"):
            await run_lines(client, tmp_path, "a\n")


@pytest.mark.parametrize(
    "what",
    ["POST /runs/", "PUT /runs/ID/blocks/0", "GET /runs/ID/results", "POST /runs/ID/collected", "PATCH /runs/ID"],
)
async def test_what_the_server_cannot_do_now_is_done_later(
    what: str, client: DtsClient, server: FakeServer, tmp_path: Path
) -> None:
    server.faults[what] += [refuse(503, Retry_After="0"), refuse(429), refuse(500)]
    assert len(await run_lines(client, tmp_path, "a\nb\nc\n")) == 3
    assert server.requests.count(what) >= 4


@pytest.mark.parametrize("what", ["PUT /runs/ID/blocks/0", "POST /runs/ID/collected", "POST /runs/"])
async def test_a_lost_answer_makes_no_row_twice(
    what: str, client: DtsClient, server: FakeServer, tmp_path: Path
) -> None:
    server.faults[what].append(drop_the_answer)
    assert len(await run_lines(client, tmp_path, "x\n" * 200)) == 200


async def test_a_part_that_is_given_again_makes_no_row_twice(
    client: DtsClient, server: FakeServer, tmp_path: Path
) -> None:
    given: list[dts_pb2.ResultPart] = []

    def give_again(handler: Handler) -> bool:
        if not given:
            given.extend(server.parts.values())
        page = dts_pb2.ResultPage(parts=[*given, *given, *server.parts.values()])
        handler.finish(page.SerializeToString())
        return True

    server.faults["GET /runs/ID/results"] += [give_again, give_again, give_again]
    assert len(await run_lines(client, tmp_path, "x\n" * 200)) == 200


async def test_only_results_in_the_bitmap_count(client: DtsClient, server: FakeServer, tmp_path: Path) -> None:
    def give_some_of_a_part(handler: Handler) -> bool:
        part = dts_pb2.ResultPart()
        part.CopyFrom(next(iter(server.parts.values())))
        part.jobs = b"\x02"
        handler.finish(dts_pb2.ResultPage(parts=[part]).SerializeToString())
        return True

    server.faults["GET /runs/ID/results"].append(give_some_of_a_part)
    server.faults["POST /runs/ID/collected"].append(forget)
    rows = await run_lines(client, tmp_path, "a\nb\nc\n")
    assert [row["result"] for row in rows] == ["A", "B", "C"]


async def test_a_refusal_ends_the_run_in_the_servers_words(
    client: DtsClient, server: FakeServer, tmp_path: Path
) -> None:
    server.faults["PUT /runs/ID/blocks/0"].append(refuse(413))
    with pytest.raises(RequestRefused, match="status 413") as caught:
        await run_lines(client, tmp_path, "a\n")
    assert caught.value.status == 413
    assert server.state == "cancelled"


async def test_an_unknown_function_leaves_the_old_output(client: DtsClient, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "out.json").write_text("precious\n")
    writer = RowWriter(OutputFile(tmp_path / "out.json"))
    with pytest.raises(RequestRefused, match="there is no function"):
        await client.run("text/unknown", TextFileIOComponent(tmp_path / "in.txt"), writer)
    assert (tmp_path / "out.json").read_text() == "precious\n"


async def test_results_that_never_come_end_the_run(client: DtsClient, server: FakeServer, tmp_path: Path) -> None:
    server.work = lambda number, batch: None  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="is closed and has no more results on the server, but 2 lines have none"):
        await run_lines(client, tmp_path, "a\nb\n")


async def test_a_pause_is_told_once(server: FakeServer) -> None:
    said: list[str] = []
    server.paused = True

    def nothing_yet(handler: Handler) -> bool:
        handler.finish(b"")
        return True

    server.faults["GET /runs/ID/results"] += [nothing_yet, nothing_yet]
    async with make_client(server.url, notify=said.append) as client:
        await client.run("text/upper", ["a"], lambda row: None)
    assert said == [f"the run {server.run_id} is paused; waiting"]


async def test_receipts_go_in_pieces_to_a_server_of_small_bodies(
    client: DtsClient, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.MAX_BODY", 100)
    await run_lines(client, tmp_path, "x\n" * 10)
    assert sorted(server.collected) == [f"{block}.0" for block in range(10)]
    assert server.requests.count("POST /runs/ID/collected") == 10


async def test_an_interrupted_run_is_cancelled_on_the_server(client: DtsClient, server: FakeServer) -> None:
    async def endless() -> AsyncIterator[str]:
        while True:
            yield "x"
            await asyncio.sleep(0)

    running = asyncio.create_task(client.run("text/upper", endless(), lambda row: None))
    await server.progress.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert server.state == "cancelled"


async def test_a_detached_run_goes_on_when_interrupted(server: FakeServer) -> None:
    forever = asyncio.Event()

    async def waiting() -> AsyncIterator[str]:
        yield "x"
        await forever.wait()

    async with make_client(server.url, detach=True) as client:
        seen = asyncio.Event()
        running = asyncio.create_task(client.run("text/upper", waiting(), lambda row: seen.set()))
        await seen.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert server.state == "open"
    assert "DELETE /runs/ID" not in server.requests


async def test_lines_that_trickle_in_are_not_held_back(client: DtsClient) -> None:
    """A line's result comes before the next line is there, although no block is full."""
    seen: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def conversation() -> AsyncIterator[str]:
        yield "hello"
        yield str((await seen.get())["result"])

    summary = await client.run("text/upper", conversation(), seen.put)
    assert (summary.lines, (await seen.get())["result"]) == (2, "HELLO")


async def test_items_may_be_calls_and_json_values(client: DtsClient, server: FakeServer) -> None:
    rows: list[dict[str, Any]] = []
    await client.run("text/upper", ["a", Call(["b"], {"loud": True}), {1, 2}.__iter__(), 7], rows.append)
    assert sorted((row["line"], row["success"]) for row in rows) == [(1, True), (2, True), (3, False), (4, True)]
    assert [(job.args, job.kwargs) for job in server.blocks[0].jobs] == [
        (b'["a"]', b""),
        (b'["b"]', b'{"loud":true}'),
        (b"[7]", b""),
    ]


async def test_many_lines_go_through_a_narrow_window(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.run.session.MAX_OUTSTANDING_JOBS", 100)
    monkeypatch.setattr("dts.client.run.send.MAX_UPLOADING", 10)
    async with make_client(server.url, num_max_coroutines=1) as client:
        assert len(await run_lines(client, tmp_path, "x\n" * 2000)) == 2000


async def test_results_are_handed_over_a_little_at_a_time(
    client: DtsClient, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.run.collect._CHUNK", 1000)
    monkeypatch.setattr("dts.client.run.collect._PAGE_TARGET", 4000)
    written: list[int] = []
    write = OutputFile.write

    def note(out: OutputFile, rows: bytes) -> None:
        assert not server.collected or sum(written)
        written.append(len(rows))
        write(out, rows)

    monkeypatch.setattr(OutputFile, "write", note)
    rows = await run_lines(client, tmp_path, ("x" * 300 + "\n") * 500)
    assert len(rows) == 500
    assert max(written) < 3000


async def test_two_runs_at_once_have_their_own_summaries(client: DtsClient, server: FakeServer) -> None:
    seen, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        yield "a"
        seen.set()
        await go_on.wait()
        yield "b"

    first = asyncio.create_task(client.run("text/upper", slow(), lambda row: None))
    await seen.wait()
    mine = client.progress
    other = asyncio.create_task(client.run("text/unknown", ["x"], lambda row: None))
    with pytest.raises(RequestRefused):
        await other
    assert client.progress is not mine
    go_on.set()
    assert (await first).lines == 2


async def test_single_jobs(client: DtsClient, server: FakeServer) -> None:
    job = await client.submit("text/upper", "a", loud=True)
    assert (await client.get(job, wait=1.0, collect=False))["state"] == "succeeded"
    await client.cancel(job)
    assert server.requests == ["POST /jobs/", "GET /jobs/ID-0", "DELETE /jobs/ID-0"]
    assert await client.collect([job] * 2001) == 2001
    assert server.requests.count("POST /jobs/collected") == 3


async def test_jobs_that_were_read_are_collected_together(server: FakeServer) -> None:
    async with DtsClient("alice", "secret", server.url) as client:
        await asyncio.gather(*(client.get(f"{server.run_id}-{number}") for number in range(20)))
    assert sorted(server.collected) == sorted(f"{server.run_id}-{number}" for number in range(20))
    assert server.requests.count("POST /jobs/collected") < 20


async def test_what_cannot_be_collected_is_no_error(server: FakeServer) -> None:
    server.faults["POST /jobs/collected"].append(refuse(400))
    async with DtsClient("alice", "secret", server.url) as client:
        assert (await client.get(f"{server.run_id}-0"))["state"] == "succeeded"
    assert server.collected == []


async def test_arguments_are_not_changed_in_silence(client: DtsClient, server: FakeServer) -> None:
    for value in (float("inf"), "\ud800", {"x"}, b"x", {1: 2}):
        with pytest.raises(InvalidInput):
            await client.submit("text/upper", value)
        with pytest.raises(InvalidInput):
            await client.submit("text/upper", key=value)
    assert server.requests == []
    rows: list[dict[str, Any]] = []
    summary = await client.run("text/upper", [float("nan"), {"x"}, b"x", {1: 2}, "\ud800", "a"], rows.append)
    assert (summary.succeeded, summary.failed) == (1, 5)
    assert {row["error"]["type"] for row in rows if not row["success"]} == {"ComponentError"}


@pytest.mark.parametrize("ambiguous", [drop_the_answer, refuse(503, Retry_After="0"), refuse(500)])
async def test_a_job_that_may_have_been_accepted_is_submitted_again_under_the_same_key(
    ambiguous: Fault, client: DtsClient, server: FakeServer
) -> None:
    server.faults["POST /jobs/"] += [refuse(429, Retry_After="0"), ambiguous]
    first = await client.submit("text/upper", "a")
    assert server.requests == ["POST /jobs/"] * 3
    assert await client.submit("text/upper", "a") != first
    assert len(server.jobs) == 2
