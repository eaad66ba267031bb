"""What a ledger says after a part of what it speaks of was lost."""

from __future__ import annotations

from array import array
from pathlib import Path
from zlib import crc32

from dts.client.components import Batch
from dts.client.run.blocks import BlockCutter
from dts.client.run.ledger import Ledger, hash_lines
from dts.client.run.ledger_state import Header, KnownBlock, LedgerState, forget_run, load_ledger

HEADER = Header("run", "http://server", "f", 4, 65536)
TEXT = b"row 1\nrow 2\n"


def block(number: int, lines: list[int], *, done: int = 0) -> KnownBlock:
    packed = hash_lines([b"[%d]" % line for line in lines], None)
    return KnownBlock(number, array("Q", lines), packed, stored=True, done=done)


def load(path: Path) -> LedgerState:
    state = load_ledger(path / "out.dts", (str(path / "out"), None))
    assert state is not None
    return state


def rewritten(path: Path) -> Ledger:
    (path / "out").write_bytes(TEXT)
    ledger = Ledger(path / "out.dts")
    state = LedgerState(HEADER, sizes=(len(TEXT), 0), succeeded=2, next_line=3)
    state.add(block(0, [1, 2, 3], done=0b11), lost=0)
    ledger.rewrite(state, (crc32(TEXT), 0))
    return ledger


def test_a_rewritten_ledger_keeps_rows_that_are_there(tmp_path: Path) -> None:
    rewritten(tmp_path)
    state = load(tmp_path)
    assert (state.blocks[0].done, state.lost_rows, set(state.lost_lines)) == (0b11, 0, set())


def test_rows_that_a_rewritten_ledger_has_and_the_output_lacks_are_lost(tmp_path: Path) -> None:
    ledger = rewritten(tmp_path)
    (tmp_path / "out").write_bytes(TEXT[:6])
    state = load(tmp_path)
    assert (state.blocks[0].done, state.sizes, state.next_line) == (0, (0, 0), 1)
    assert set(state.lost_lines) == {1, 2}
    assert state.lost_rows >= 2
    ledger.reopen(state, (str(tmp_path / "out"), None))
    ledger.close()
    assert set(load(tmp_path).lost_lines) == {1, 2}


def test_a_lost_row_of_an_unreadable_line_makes_a_new_ledger(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(TEXT)
    ledger = Ledger(tmp_path / "out.dts")
    ledger.begin(HEADER)
    ledger.wrote((len(TEXT), 0), (crc32(TEXT), 0), (0, 2), {}, [1, 2])
    ledger.close()
    (tmp_path / "out").write_bytes(b"")
    state = load(tmp_path)
    assert (state.lost_rows, state.local) == (1, set())
    ledger.reopen(state, (str(tmp_path / "out"), None))
    ledger.close()
    assert load(tmp_path).lost_rows == 0


async def test_blocks_that_no_proxy_takes_keep_their_place(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out.dts")
    ledger.begin(HEADER)

    async def note(number: int, first: int, last: int) -> None:
        noted = block(number, list(range(first, last + 1)))
        await ledger.block(number, noted.lines, noted.hashes)

    await note(0, 1, 4)
    await note(1, 5, 8)
    await note(2, 9, 12)
    ledger.gave_up(0)
    await note(3, 1, 2)
    ledger.gave_up(1)
    await note(4, 5, 6)
    await note(5, 3, 4)
    ledger.gave_up(4)
    await note(6, 5, 5)
    ledger.close()
    (tmp_path / "out").touch()
    state = load(tmp_path)
    assert set(state.lost_lines) == {6, 7, 8}
    cutter = BlockCutter(4, 65536, state.blocks.values())
    cutter.add(Batch([b"[%d]" % line for line in range(1, 14)]))
    cut = list(cutter.cut(everything=True))
    assert [each.lines for each in cut if each.known is not None] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11, 12],
        [1, 2],
        [5, 6],
        [3, 4],
        [5],
    ]
    assert sorted(line for each in cut if each.known is None for line in each.lines) == [6, 7, 8, 13]


async def test_a_run_that_is_gone_gets_a_new_ledger(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    ledger = Ledger(tmp_path / "out.dts")
    ledger.begin(HEADER)
    ledger.close()
    state = load(tmp_path)
    forget_run(state)
    state.header = Header("another", "http://server", "f", 4, 65536)
    ledger.reopen(state, (str(tmp_path / "out"), None))
    ledger.close()
    assert load(tmp_path).header.id == "another"
