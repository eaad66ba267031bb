"""The anchor of the operation log: shared by the servers of a host, never lowered, not to be forged without the key."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dts.server.audit.checkpoint import CheckpointBroken, LogCheckpoint, Mark

URL = "mongodb://ann:secret@db1:27017/dts?replicaSet=a"


def an_anchor(folder: Path, *, url: str = URL, key: bytes = b"key") -> LogCheckpoint:
    return LogCheckpoint(folder, url, key)


async def test_the_furthest_of_several_servers_stays(tmp_path: Path) -> None:
    anchors = [an_anchor(tmp_path) for _ in range(4)]
    assert await anchors[0].read() is None
    marks = [Mark(seq, f"hash {seq}") for seq in range(1, 41)]
    await asyncio.gather(*(anchors[mark.seq % 4].advance(mark) for mark in marks))
    await anchors[0].advance(Mark(7, "another"))
    assert await anchors[1].read() == Mark(40, "hash 40")
    assert os.listdir(tmp_path) == [anchors[0].path.name], "nothing else is left behind"
    assert anchors[0].path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "null", "{}", "[1]", '{"seq": 3, "hash": "x", "mac": "y"}', '{"seq": "x", "hash": 1, "mac": 2}', "\x00\xff"],
)
async def test_what_no_server_wrote_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    anchor = an_anchor(tmp_path)
    anchor.path.write_text(text)
    with pytest.raises(CheckpointBroken, match="beside the server's key file"):
        await anchor.read()
    with pytest.raises(CheckpointBroken):
        await anchor.advance(Mark(9, "x"))
    assert anchor.path.read_text() == text


async def test_an_anchor_of_another_key_is_not_taken(tmp_path: Path) -> None:
    await an_anchor(tmp_path).advance(Mark(3, "x"))
    with pytest.raises(CheckpointBroken):
        await an_anchor(tmp_path, key=b"another").read()


async def test_each_store_has_an_anchor_of_its_own_however_one_signs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await an_anchor(tmp_path).advance(Mark(3, "x"))
    assert await an_anchor(tmp_path, url="mongodb://bob:other@db1:27017/dts").read() == Mark(3, "x")
    assert await an_anchor(tmp_path, url="mongodb://db1:27017/other").read() is None
    monkeypatch.chdir(tmp_path)
    relative, absolute = (
        an_anchor(tmp_path, url="sqlite:///a.db"),
        an_anchor(tmp_path, url=f"sqlite:///{tmp_path}/a.db"),
    )
    assert relative.path == absolute.path


async def test_an_anchor_is_not_moved_to_the_place_of_another(tmp_path: Path) -> None:
    one, other = an_anchor(tmp_path), an_anchor(tmp_path, url="mongodb://db1:27017/other")
    await one.advance(Mark(3, "x"))
    one.path.rename(other.path)
    with pytest.raises(CheckpointBroken):
        await other.read()
