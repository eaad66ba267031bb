"""The server's small parts: slices, validation of bodies, keys, the bundled functions."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dts.auth import derive_key
from dts.config import ServerSettings
from dts.errors import ConfigError, InvalidInput, TooLarge
from dts.model import Candidate, Function, Outcome, Part, Run, bitmap, new_id
from dts.server.access.key_box import KeyBox
from dts.server.intake.ingest import Arguments, batch_from_arguments, batch_from_ndjson, new_block
from dts.server.lookup.catalogue import BUNDLED, functions_in
from dts.server.publish.slices import (
    CONCURRENT_SLICE,
    UNKNOWN_SLICE,
    block_messages,
    slice_size,
)
from dts.server.record.blocks import decode_block
from dts.server.record.results import cancelled_candidate, part_results
from dts.wire import codec, dts_pb2


@pytest.mark.parametrize(
    ("mean", "concurrent", "size"),
    [
        (None, False, UNKNOWN_SLICE),
        (0.000_001, False, 256),
        (0.0, False, 256),
        (0.001, False, 50),
        (0.04, False, 1),
        (3600.0, False, 1),
        (3600.0, True, CONCURRENT_SLICE),
        (0.000_001, True, 256),
    ],
)
def test_a_message_holds_about_fifty_milliseconds_of_work(mean: float | None, concurrent: bool, size: int) -> None:
    function = Function("a/b", mean_duration=mean, concurrent=concurrent)
    assert slice_size(function, seconds=0.05, max_slice=256) == size
    assert slice_size(function, seconds=0.05, max_slice=16) == min(size, 16)


def test_a_function_that_is_gone_is_sliced_like_an_unknown_one() -> None:
    assert slice_size(None, seconds=0.05, max_slice=256) == UNKNOWN_SLICE


def block_of(count: int, args: bytes = b"[1]"):  # type: ignore[no-untyped-def]
    run = Run(new_id(), "alice", "text/upper", 2048)
    return new_block(run, 2, "text/upper", batch_from_arguments([Arguments(args, b"")] * count))


FAST = Function("text/upper", mean_duration=0.0)


def test_slices_cover_a_block_without_overlap() -> None:
    block = block_of(1000)
    messages = block_messages(block, decode_block(block), FAST, ServerSettings()).messages
    assert [message.headers["count"] for message in messages] == [256, 256, 256, 232]
    seen: list[int] = []
    for message in messages:
        batch = codec.decode(dts_pb2.JobBatch, message.body, message.content_encoding)
        assert (batch.block, batch.run, batch.function) == (block.id, block.run, "text/upper")
        assert message.headers["first"] == batch.jobs[0].index
        seen += [job.index for job in batch.jobs]
    assert seen == list(range(1000))


def test_large_arguments_make_small_messages() -> None:
    block = block_of(20, b'["' + b"x" * 300_000 + b'"]')
    messages = block_messages(block, decode_block(block), FAST, ServerSettings()).messages
    assert [message.headers["count"] for message in messages] == [3] * 6 + [2]


def test_the_digest_of_a_block_is_that_of_its_jobs() -> None:
    run = Run(new_id(), "alice", "text/upper", 2048)
    one = new_block(run, 0, "text/upper", batch_from_ndjson(b'{"args": [1]}\n{"args":[2]}', max_jobs=9))
    same = new_block(run, 0, "text/upper", batch_from_arguments([Arguments(b"[1]", b""), Arguments(b"[2]", b"")]))
    other = new_block(run, 0, "text/upper", batch_from_arguments([Arguments(b"[2]", b""), Arguments(b"[1]", b"")]))
    assert one.digest == same.digest != other.digest
    assert (one.first, one.count) == (0, 2)


def test_lines_of_a_block_are_counted() -> None:
    with pytest.raises(TooLarge):
        batch_from_ndjson(b"{}\n" * 3, max_jobs=2)
    with pytest.raises(InvalidInput):
        batch_from_ndjson(b"\n", max_jobs=2)


def test_a_cancelled_part_reads_back() -> None:
    outcome = Outcome("b-0", "b", 0, "alice", "text/upper", 10, ended=0b11)
    candidate = cancelled_candidate(outcome, outcome.unfinished)
    assert candidate == Candidate("b-0", candidate.body, candidate.content_encoding, cancelled=0b1111111100)
    part = Part("b-0", 0, candidate.ended & ~0b100, candidate.body, candidate.content_encoding)
    assert [result.index for _, result in part_results(part)] == list(range(3, 10))
    assert bitmap.from_indices(range(2, 10)) == candidate.ended


def test_keys_are_sealed_with_the_key_file(tmp_path: Path) -> None:
    box = KeyBox.open(tmp_path / "sub" / "server.key")
    key = derive_key("alice", "secret")
    sealed = box.seal(key, "users/alice")
    assert key not in sealed
    assert KeyBox.open(tmp_path / "sub" / "server.key").unseal(sealed, "users/alice") == key
    assert stat.S_IMODE((tmp_path / "sub" / "server.key").stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="key_file"):
        KeyBox.open(tmp_path / "other.key").unseal(sealed, "users/alice")
    with pytest.raises(ConfigError, match="another record"):
        box.unseal(sealed, "users/bob")


def test_a_key_file_with_rubbish_is_refused(tmp_path: Path) -> None:
    (tmp_path / "server.key").write_text("rubbish")
    with pytest.raises(ConfigError, match=r"server\.key"):
        KeyBox.open(tmp_path / "server.key")


def test_the_functions_in_are_found_by_reading() -> None:
    functions = {function.name: function for function in functions_in(BUNDLED)}
    assert {"text/upper", "text/wordcount"} <= functions.keys()
    assert all(function.description for function in functions.values())


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{}\n\n{}\n", "line 2: .* blank"),
        (b"{}\n{}\n\n", "line 3: .* blank"),
        (b"{} {}\n{}\n", "line 1"),
        (b"{}{}\n\n", "line 1"),
        (b"{}\n{\n}\n", "line 2"),
    ],
)
def test_every_line_is_one_job(body: bytes, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        batch_from_ndjson(body, max_jobs=9)


@pytest.mark.parametrize("body", [b"{}\n{}", b"{}\n{}\n", b" {}\r\n{} \r\n"])
def test_the_last_line_may_end_or_not(body: bytes) -> None:
    assert len(batch_from_ndjson(body, max_jobs=2).jobs) == 2
