"""Who answers for the daemons: those that run, wherever they are, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from dts.broker import open_broker
from dts.config import Settings
from dts.management import AdminClient
from dts.runtime.service import Service
from dts.server.app import Server
from dts.server.daemons import DAEMONS, Presence, daemons_present

ALL = frozenset(DAEMONS)


async def test_each_process_answers_for_its_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/queue.db"
    one, other = {"porter": Service(), "logtracer": Service()}, {"timekeeper": Service()}
    async with (
        open_broker(url) as broker,
        open_broker(url) as elsewhere,
        Presence(broker, one),
        Presence(elsewhere, other),
        Presence(elsewhere, {"unknown": Service()}),
    ):
        assert await daemons_present(broker, ALL) == {"porter", "logtracer", "timekeeper"}
        one["porter"].failed.set()
        assert await daemons_present(elsewhere, ALL) == {"logtracer", "timekeeper"}


async def test_nobody_answers_where_nobody_is(tmp_path: Path) -> None:
    async with open_broker(f"sqlite:///{tmp_path}/queue.db") as broker:
        assert await daemons_present(broker, ALL) == frozenset()


@pytest.mark.parametrize("inside", ["porter timekeeper", "none", "all"])
async def test_the_diagnosis_tells_which_daemons_are_at_work(settings: Settings, inside: str) -> None:
    settings = structs.replace(settings, server=structs.replace(settings.server, daemons=inside))
    expected = {"none": [], "all": list(DAEMONS)}.get(inside, inside.split())
    async with Server(settings) as server:
        secret = settings.server.admin_secret_file.read_text().strip()
        async with AdminClient("admin", secret, f"http://127.0.0.1:{server.port}") as admin:
            found = (await admin.diagnose())["daemons"]
    assert found == {"inside": expected, "present": expected}
