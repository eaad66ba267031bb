"""What input becomes: one job, or one failed row, for every line, whatever is in it."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dts.client import JsonFileIOComponent, TextFileIOComponent, WordFileIOComponent
from dts.client.components import MAX_NESTING, Batch, Call, FileComponent, IterableComponent, LineAssembler
from dts.errors import ClientError

TEXT = TextFileIOComponent("-")
WORDS = WordFileIOComponent("-")
JSON = JsonFileIOComponent("-")


def parse(component: FileComponent, data: bytes) -> Batch:
    lines = data.split(b"\n")
    return component.parse(data, lines if lines[-1] else lines[:-1])


def assemble(chunks: list[bytes], max_line: int = 1000) -> list[bytes | None]:
    assembler = LineAssembler(max_line)
    return [*(piece for chunk in chunks for piece in assembler.feed(chunk)), *assembler.finish()]


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"\n\n", ["", ""]),
        (b"a\rb\n", ["a\rb"]),
        ('ü\u2028\x0b\x00"\\\t\n'.encode(), ['ü\u2028\x0b\x00"\\\t']),
    ],
)
def test_a_line_of_text_is_one_argument(data: bytes, arguments: list[str]) -> None:
    assert [msgspec.json.decode(args) for args in parse(TEXT, data).args] == [[each] for each in arguments]


def test_a_line_that_is_not_utf8_is_bad_and_the_others_are_not() -> None:
    batch = parse(TEXT, b"a\r\nb\xffc\nd\n")
    assert batch.bad == {1: "the line is not valid UTF-8: byte 2 of it"}
    assert (batch.args[0], batch.args[2]) == (b'["a"]', b'["d"]')


def test_the_words_of_a_line_are_its_arguments() -> None:
    assert parse(WORDS, b"one  two\t3\r\n\n").args == [b'["one","two","3"]', b"[]"]


def test_json_objects_are_keywords_and_arrays_are_arguments() -> None:
    batch = parse(JSON, b'{"a": 1.50}\r\n [1, "x"] \n')
    assert batch == Batch([b"", b'[1, "x"]'], [b'{"a": 1.50}', b""])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"3", "neither an object"),
        (b"null", "neither an object"),
        (b"", "blank"),
        (b" \r", "blank"),
        (b"[1", "not valid JSON"),
        (b"[NaN]", "not valid JSON"),
        (b"[1e999]", "not valid JSON"),
        (b'["\xff"]', "not valid JSON"),
        (b'["\\ud800"]', r"has the lone surrogate \ud800, which is no character"),
        (b'{"a": "\\ud83d\\ude00\\udc00"}', r"the lone surrogate \udc00"),
        (b'["\\ud800', "not valid JSON"),
        (b"[" + b"1" * 5000 + b"]", "not valid JSON"),
        (b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1), "deep"),
        (b"[" * 100_000 + b"]" * 100_000, "deep"),
    ],
)
def test_other_json_is_bad(line: bytes, reason: str) -> None:
    batch = parse(JSON, b"[]\n" + line + b"\n{}\n")
    assert list(batch.bad) == [1]
    assert reason in batch.bad[1]


def test_brackets_in_strings_and_siblings_are_not_nesting() -> None:
    line = b"[" + b'"[[[[", [], ' * MAX_NESTING + b"1]"
    assert parse(JSON, line + b"\n").bad == {}


@given(st.lists(st.binary(max_size=20)), st.data())
def test_however_the_bytes_come_the_lines_are_the_same(lines: list[bytes], data: st.DataObject) -> None:
    content = b"\n".join(lines)
    chunks: list[bytes] = []
    rest = content
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        chunks.append(rest[:size])
        rest = rest[size:]
    pieces = assemble(chunks)
    assert b"".join(piece or b"" for piece in pieces) == content.removeprefix(b"\xef\xbb\xbf")
    assert all(piece is not None and piece.endswith(b"\n") for piece in pieces[:-1])


def test_a_line_over_the_limit_is_dropped_while_it_comes() -> None:
    assert assemble([b"a\nx", b"xx", b"xx", b"xx", b"x\nb\n", b"c"], max_line=4) == [b"a\n", None, b"b\n", b"c"]
    assert assemble([b"xxxxx"], max_line=4) == [None]


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\xef\xbb\xbf" + b"".join(b"%d\n" % n for n in range(100_000)) + b"last")
    component = TextFileIOComponent(tmp_path / "in")
    lines = [args async for batch in component.batches(1000) for args in batch.args]
    assert lines == [*(b'["%d"]' % n for n in range(100_000)), b'["last"]']
    assert component.bytes_read == component.bytes_total


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


async def test_a_pipe_is_read_as_it_comes(pipe: tuple[int, int]) -> None:
    read, write = pipe
    component = TextFileIOComponent(f"/dev/fd/{read}")
    batches = component.batches(1000)
    os.write(write, b"one\ntw")
    assert (await anext(batches)).args == [b'["one"]']
    os.write(write, b"o\n")
    assert (await anext(batches)).args == [b'["two"]']
    os.close(write)
    assert [batch async for batch in batches] == []
    assert component.bytes_total is None


async def test_a_line_that_is_too_long_says_how_long_it_may_be(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.write(write, b"x" * 11)
    os.close(write)
    [batch] = [batch async for batch in TextFileIOComponent(f"/dev/fd/{read}").batches(10) if batch.bad]
    assert batch.bad == {0: "the line is over the limit of 10 bytes"}


async def test_a_read_that_comes_late_takes_nothing_from_what_was_opened_since(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's number is free for others only when no thread can read from it any more."""
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()
    took: list[bytes] = []
    really_read = os.read

    def read_late(descriptor: int, size: int) -> bytes:
        begun.set()
        go_on.wait(10)
        took.append(really_read(descriptor, size))
        over.set()
        return took[-1]

    monkeypatch.setattr(os, "read", read_late)
    batches = TextFileIOComponent(f"/dev/fd/{pipe[0]}").batches(1000)
    reading = asyncio.create_task(anext(batches))
    assert await asyncio.to_thread(begun.wait, 10)
    reading.cancel()
    await asyncio.wait([reading])
    others = os.pipe()
    os.write(others[1], b"somebody else's")
    os.write(pipe[1], b"mine\n")
    go_on.set()
    assert await asyncio.to_thread(over.wait, 10)
    assert took == [b"mine\n"]
    for descriptor in (*others, pipe[1]):
        os.close(descriptor)


async def test_a_file_that_was_left_is_closed() -> None:
    """After the read under way, too."""
    read, write = os.pipe()
    component = TextFileIOComponent(f"/dev/fd/{read}")
    reading = asyncio.create_task(anext(component.batches(1000)))
    await asyncio.sleep(0.05)  # it reads, most likely
    reading.cancel()
    await asyncio.wait([reading])
    os.close(read)
    os.write(write, b"\n")  # the thread has an end of its own still, and gives it back after this
    gone = select.poll()
    gone.register(write, 0)
    assert await asyncio.to_thread(gone.poll, 10_000) == [(write, select.POLLERR)]
    os.close(write)


def test_what_cannot_be_read_says_so_when_opened(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"cannot read .*missing: No such file"):
        TextFileIOComponent(tmp_path / "missing").open()
    with pytest.raises(ClientError, match="there is no file in the directory"):
        TextFileIOComponent(tmp_path).open()


async def test_items_are_arguments_and_calls_are_calls() -> None:
    component = IterableComponent(["a", [1], Call([1, 2], {"k": None}), object()])
    [batch] = [batch async for batch in component.batches(1000)]
    assert batch.args == [b'["a"]', b"[[1]]", b"[1,2]", b""]
    assert batch.kwargs == [b"", b"", b'{"k":null}', b""]
    assert "not a JSON value" in batch.bad[3]
