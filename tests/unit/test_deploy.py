"""What is in deploy/: its names are those of the product."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

_SCRAPED = """
import dts.server.app, dts.server.daemons, dts.worker.command.cli, dts.worker.telemetry.figures
from prometheus_client import REGISTRY
for collector in list(REGISTRY._collector_to_names):
    for family in getattr(collector, "describe", list)():
        print(family.name, family.type)
"""


def exposed() -> set[str]:
    """The names of samples that processes of DTS may expose."""
    done = subprocess.run([sys.executable, "-c", _SCRAPED], capture_output=True, text=True, check=True, cwd=ROOT)
    names: set[str] = set()
    for line in done.stdout.splitlines():
        name, kind = line.split()
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(kind, [""])
        names |= {name + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize("path", ["grafana/dts.json", "prometheus/rules.yaml"])
def test_every_metric_that_is_named_exists(path: str) -> None:
    text = (DEPLOY / path).read_text()
    named = set(re.findall(r"\bdts_[a-z_]+\b", text))
    assert len(named) >= 10
    assert named <= exposed()


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads((DEPLOY / "grafana/dts.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    assert all(
        target["expr"].count("(") == target["expr"].count(")") for panel in panels for target in panel["targets"]
    )


@pytest.mark.parametrize("name", ["server", "daemons", "worker"])
def test_units_start_the_commands_that_there_are(name: str) -> None:
    unit = (DEPLOY / f"systemd/dts-{name}.service").read_text()
    command = re.search(r"^ExecStart=/opt/dts/bin/(\S+) -c /etc/dts/(\S+)$", unit, re.MULTILINE)
    assert command is not None
    assert f'{command[1]} = "' in (ROOT / "pyproject.toml").read_text()
    assert (ROOT / "etc/cluster" / command[2]).is_file()


def test_the_containers_are_set_up_by_variables_that_there_are() -> None:
    from dts.config import load_settings

    text = (DEPLOY / "compose.yaml").read_text()
    found = dict(re.findall(r"^ *(DTS_[A-Z_]+): (.+)$", text, re.MULTILINE))
    environment = {name: value.strip('"') for name, value in found.items()}
    environment["DTS_BROKER_URL"] = "amqp://dts:x@rabbitmq:5672/dts"
    settings = load_settings(None, environment=environment)
    assert settings.server.names == ("localhost", "server")
    assert str(settings.fleet_key_file) == "/fleet/fleet.key"
    assert settings.metrics.port == 9100
