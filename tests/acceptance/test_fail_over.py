"""A replica set of MongoDB whose primary is killed in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_main_job import check_exactly_one_correct_row_per_line
from tests.services.deployment import Deployment, count_rows
from tests.services.mongodb import MongoReplicaSet
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import wait_until

LINES = 5000


@pytest.fixture
def replica_set() -> Iterator[MongoReplicaSet]:
    with MongoReplicaSet() as started:
        yield started


@pytest.mark.parametrize("again", [False, True], ids=["stays away", "comes back"])
def test_the_loss_of_the_primary_loses_no_line(
    replica_set: MongoReplicaSet,
    rabbit: RabbitServer,
    again: bool,
    lines_file: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    with Deployment(tmp_path / "cluster", replica_set.url("acceptance"), rabbit.url) as deployment:
        # Small blocks and messages: while the primary is killed, some of everything is on its way.
        deployment.environment |= {"DTS_SERVER_MAX_SLICE": "2", "DTS_SERVER_BLOCK_SIZE": "20"}
        deployment.start_all()
        outfile = tmp_path / "out.json"
        client = deployment.start_client("text/upper", lines_file(LINES), outfile)
        wait_until(lambda: count_rows(outfile) >= 500, "the run to be under way")
        killed = replica_set.primary()
        killed.kill()
        assert client.poll() is None, "the run ended before the primary was killed"
        if again:
            replica_set.primary()
            killed.start()
        assert deployment.wait("client") == 0, deployment.log("client")
        check_exactly_one_correct_row_per_line(outfile, LINES)
