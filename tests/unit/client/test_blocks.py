"""How lines are cut into blocks, and what is remembered of a block."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from dts.client.components import Batch
from dts.client.run.blocks import BlockCutter, CutBlock
from dts.client.run.pace import MOST_TARGET
from dts.model import bitmap

MAX_BODY = 8 * 1024 * 1024


def cut(*batches: Batch, block_size: int = 2048, max_body: int = MAX_BODY) -> tuple[list[CutBlock], BlockCutter]:
    cutter = BlockCutter(block_size, max_body)
    blocks: list[CutBlock] = []
    for batch in batches:
        cutter.add(batch)
        blocks += cutter.cut()
    blocks += cutter.cut(everything=True)
    return blocks, cutter


def test_blocks_double_up_to_the_block_size() -> None:
    blocks, _ = cut(Batch([b"[1]"] * 10_000))
    assert [len(block.args) for block in blocks] == [64, 128, 256, 512, 1024, 2048, 2048, 2048, 1872]


def test_blocks_are_as_large_as_they_may_be_at_the_time() -> None:
    cutter = BlockCutter(2048, MAX_BODY)
    cutter.add(Batch([b"[1]"] * 1000))
    cutter.most = 3
    sizes = []
    for block in cutter.cut():
        sizes.append(len(block.args))
        if len(sizes) == 2:
            cutter.most = 2048
    assert sizes == [3, 3, 256, 512], "they have grown in the meantime"


def test_a_small_block_size_is_kept_to() -> None:
    blocks, _ = cut(Batch([b"[1]"] * 25), block_size=10)
    assert [len(block.args) for block in blocks] == [10, 10, 5]


def test_a_block_is_cut_when_it_has_bytes_enough() -> None:
    blocks, _ = cut(Batch([b"x" * (MOST_TARGET // 3)] * 5), Batch([b"y" * (MOST_TARGET * 2)]))
    assert [len(block.args) for block in blocks] == [2, 2, 1, 1]


def test_a_job_that_is_too_large_becomes_a_bad_line() -> None:
    blocks, cutter = cut(Batch([b"a", b"x" * 2000, b"b", b"y" * 3000]), max_body=1500)
    assert [(block.args, block.lines) for block in blocks] == [([b"a"], [1]), ([b"b"], [3])]
    assert [line for line, _ in cutter.take_bad()] == [2, 4]
    assert cutter.take_bad() == []


def test_lines_keep_their_numbers_around_bad_ones() -> None:
    blocks, cutter = cut(Batch([b"1", b"", b"3"], bad={1: "no"}), Batch([b"4"]))
    sent = blocks[0].to_sent(0, 2048, keep=False)
    assert (sent.lines, sent.args) == (array("Q", [1, 3, 4]), None)
    assert cutter.take_bad() == [(2, "no")]


def test_lines_without_gaps_need_no_list_of_numbers() -> None:
    blocks, _ = cut(Batch([b"1"] * 100))
    sent = blocks[1].to_sent(1, 2048, keep=True)
    assert (sent.first_job, sent.first_line, sent.count, sent.lines) == (2048, 65, 36, None)
    assert sent.args == [b"1"] * 36


def test_keyword_arguments_may_begin_anywhere() -> None:
    blocks, _ = cut(Batch([b"1"]), Batch([b"", b"3"], [b"{}", b""]), Batch([b"4"]))
    [block] = blocks
    assert [(job.index, job.args, job.kwargs) for job in block.to_message().jobs] == [
        (0, b"1", b""),
        (1, b"", b"{}"),
        (2, b"3", b""),
        (3, b"4", b""),
    ]


batches = st.lists(
    st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=40).map(
        lambda lines: Batch(
            [b"x" * size for size, _ in lines], bad={n: "bad" for n, (_, bad) in enumerate(lines) if bad}
        )
    )
)


@given(batches, st.integers(1, 100))
def test_every_line_is_in_one_block_or_bad_and_no_block_is_too_large(given: list[Batch], block_size: int) -> None:
    blocks, cutter = cut(*given, block_size=block_size, max_body=300)
    lines = [line for block in blocks for line in block.lines]
    assert sorted([*lines, *(line for line, _ in cutter.take_bad())]) == list(range(1, cutter.lines_seen + 1))
    for block in blocks:
        assert len(block.args) == len(block.lines) <= block_size
        assert block.to_message().ByteSize() <= 300


@given(st.lists(st.sets(st.integers(0, 70)).map(bitmap.from_indices)))
def test_a_result_is_received_once(parts: list[int]) -> None:
    sent = CutBlock([b""] * 64, None, list(range(1, 65)), 0).to_sent(0, 2048, keep=False)
    fresh = [sent.receive(part) for part in parts]
    assert sum(each.bit_count() for each in fresh) == sent.received.bit_count()
    assert sent.complete == (sent.received == bitmap.full(64))
