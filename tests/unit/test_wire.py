"""Messages: there and back, bounded, and the generated code true to its source."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from dts.errors import TooLarge, WireError
from dts.wire import codec, dts_pb2

ROOT = Path(__file__).parents[2]


def test_a_message_comes_back_as_it_went() -> None:
    batch = dts_pb2.JobBatch(block="b", jobs=[dts_pb2.Job(index=i, args=b"[1]") for i in range(300)])
    encoded = codec.encode(batch)
    assert encoded.content_encoding == codec.DEFLATE
    assert codec.decode(dts_pb2.JobBatch, *encoded) == batch


def test_what_does_not_shrink_is_not_compressed() -> None:
    noise = random.Random(1).randbytes(1000)
    assert codec.compress(noise) == (noise, codec.IDENTITY)
    assert codec.compress(b"short") == (b"short", codec.IDENTITY)


def test_a_megabyte_that_inflates_to_a_gigabyte_is_refused_in_milliseconds() -> None:
    deflater = zlib.compressobj(9)
    sixteen_megabytes = [deflater.compress(bytes(16 * 1024 * 1024)) + deflater.flush(zlib.Z_FULL_FLUSH) for _ in "ab"]
    bomb = sixteen_megabytes[0] + 63 * sixteen_megabytes[1]  # a full flush makes each piece valid anywhere
    assert 900_000 < len(bomb) < 1_100_000
    began = time.thread_time()
    with pytest.raises(TooLarge):
        codec.decompress(bomb, codec.DEFLATE, max_size=8 * 1024 * 1024)
    assert time.thread_time() - began < 0.25  # inflating all of it takes seconds


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not deflate", codec.DEFLATE),
        (zlib.compress(b"x" * 1000)[:-5], codec.DEFLATE),
        (b"", codec.DEFLATE),
        (b"x", "gzip"),
    ],
)
def test_damaged_bodies_are_refused(body: bytes, encoding: str) -> None:
    with pytest.raises(WireError):
        codec.decompress(body, encoding)


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(WireError, match="JobBatch"):
        codec.decode(dts_pb2.JobBatch, b"\xff\xff\xff")


def test_a_plain_body_is_bounded_too() -> None:
    with pytest.raises(TooLarge):
        codec.decompress(b"x" * 11, codec.IDENTITY, max_size=10)


def test_generating_the_code_again_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, "dts/wire/dts.proto"], cwd=ROOT, check=True)
    for name in ("dts_pb2.py", "dts_pb2.pyi"):
        assert (tmp_path / "dts/wire" / name).read_text() == (ROOT / "dts/wire" / name).read_text()
