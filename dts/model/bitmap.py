"""Sets of job indices within a block, as integers: bit i is the job with index i.

Python's integers do set algebra on a whole block in one operation; a store keeps them as little-endian bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def from_indices(indices: Iterable[int]) -> int:
    """The bitmap that has exactly `indices`."""
    present = bytearray()
    for index in indices:
        byte = index >> 3
        if byte >= len(present):
            present.extend(bytes(byte + 1 - len(present)))
        present[byte] |= 1 << (index & 7)
    return int.from_bytes(present, "little")


def indices(bitmap: int) -> Iterator[int]:
    """The indices in `bitmap`, in ascending order."""
    for offset, byte in enumerate(to_bytes(bitmap, bitmap.bit_length())):
        if byte:
            for bit in range(8):
                if byte >> bit & 1:
                    yield offset * 8 + bit


def full(count: int) -> int:
    """The bitmap of a block of `count` jobs, all of them."""
    return (1 << count) - 1


def to_bytes(bitmap: int, count: int) -> bytes:
    """`bitmap` as bytes for a block of `count` jobs: ceil(count / 8) bytes, little-endian."""
    return bitmap.to_bytes((count + 7) // 8, "little")


def from_bytes(data: bytes) -> int:
    """The bitmap that `to_bytes` made."""
    return int.from_bytes(data, "little")


def to_window(bitmap: int) -> tuple[int, bytes]:
    """`bitmap` without its empty ends: the number of empty bytes left out before, and the bytes from there on.

    The few jobs of a part lie close together, so this is much smaller than a bitmap of the whole block.
    """
    offset = max(0, (bitmap & -bitmap).bit_length() - 1) >> 3
    window = bitmap >> (offset * 8)
    return offset, to_bytes(window, window.bit_length())


def from_window(offset: int, data: bytes) -> int:
    """The bitmap that `to_window` made."""
    return from_bytes(data) << (offset * 8)
