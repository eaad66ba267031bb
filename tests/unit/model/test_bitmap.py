"""Sets of job indices as integers and as bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dts.model import MAX_BLOCK_SIZE, bitmap

INDICES = st.sets(st.integers(0, MAX_BLOCK_SIZE - 1))


@given(INDICES)
def test_indices_come_back_in_order(present: set[int]) -> None:
    assert list(bitmap.indices(bitmap.from_indices(present))) == sorted(present)


@given(INDICES)
def test_repeats_and_order_do_not_matter(present: set[int]) -> None:
    twice = [*sorted(present, reverse=True), *present]
    assert bitmap.from_indices(twice) == sum(1 << index for index in present)


@given(INDICES)
def test_bytes_come_back(present: set[int]) -> None:
    bits = bitmap.from_indices(present)
    data = bitmap.to_bytes(bits, MAX_BLOCK_SIZE)
    assert len(data) == MAX_BLOCK_SIZE // 8
    assert bitmap.from_bytes(data) == bits


@given(INDICES)
def test_a_window_has_no_empty_ends_and_comes_back(present: set[int]) -> None:
    bits = bitmap.from_indices(present)
    offset, data = bitmap.to_window(bits)
    assert bitmap.from_window(offset, data) == bits
    assert data == data.strip(b"\x00")


@given(st.integers(1, MAX_BLOCK_SIZE))
def test_full_has_every_index_of_the_block(count: int) -> None:
    assert list(bitmap.indices(bitmap.full(count))) == list(range(count))
    assert len(bitmap.to_bytes(bitmap.full(count), count)) == (count + 7) // 8


def test_nothing_is_zero() -> None:
    assert bitmap.from_indices([]) == 0 == bitmap.full(0) == bitmap.from_bytes(b"")
    assert list(bitmap.indices(0)) == []
    assert bitmap.to_window(0) == (0, b"")
