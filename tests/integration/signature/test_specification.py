"""The page on signatures, as somebody uses it who has nothing else."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dts.auth import Credentials, KeccakAuthenticator, Request
from tests.integration.conftest import Site

CLIENT = Path(__file__).with_name("client.py")
PAGE = (Path(__file__).parents[3] / "docs/signature.md").read_text(encoding="utf-8")
VECTOR = re.compile(
    r"    (?P<method>[A-Z]+) (?P<target>/\S+)\n(?P<headers>(?:    [A-Z][\w-]+: .+\n)*)(?:    body: (?P<body>.+)\n)?"
    r"    ts=(?P<ts>\d+) nonce=(?P<nonce>\w+)\n    digest=(?P<digest>\w+)\n    sig=(?P<sig>\w+)"
)
VECTORS = [match.groupdict() for match in VECTOR.finditer(PAGE)]
BASE = "https://DTS.example:443/dts"


def run_client(*arguments: str) -> str:
    """What the client prints; it runs without any package, DTS among them."""
    command = [sys.executable, "-I", "-S", str(CLIENT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_there_are_vectors() -> None:
    assert len(VECTORS) == 3
    assert {bool(vector["body"]) for vector in VECTORS} == {True, False}


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["method"] for vector in VECTORS])
def test_client_and_server_agree_with_the_vectors(vector: dict[str, str]) -> None:
    headers = dict(line.strip().split(": ", 1) for line in vector["headers"].splitlines())
    arguments = [vector["method"], BASE + vector["target"], "alice", "pässword", "--base-path", "/dts"]
    arguments += ["--ts", vector["ts"], "--nonce", vector["nonce"], "--body", vector["body"] or ""]
    for name, value in headers.items():
        arguments += ["--header", f"{name}={value}"]
    expected = (
        f"DTS-KECCAK-256 v=2, uid=alice, ts={vector['ts']}, nonce={vector['nonce']}, "
        f"digest={vector['digest']}, sig={vector['sig']}"
    )
    assert run_client(*arguments) == expected
    request = Request.to(vector["method"], BASE + vector["target"], headers, base_path="/dts")
    signer = KeccakAuthenticator(Credentials("alice", "pässword"))
    body = (vector["body"] or "").encode()
    assert signer.sign(request, body, now=float(vector["ts"]), nonce=vector["nonce"]) == expected


async def test_a_client_made_from_the_page_submits_a_job(site: Site) -> None:
    secret = site.settings.server.admin_secret_file.read_text().strip()
    body = '{"params": {"function": "text/upper", "args": ["ü"]}}'
    fields = ("--header", "Content-Type=application/json", "--header", "Idempotency-Key=order 7", "--body", body)
    answers = [
        await asyncio.to_thread(run_client, "POST", f"{site.url}/jobs/", "admin", secret, *fields) for _ in range(2)
    ]
    assert answers[0].startswith("201 ")
    assert answers[0] == answers[1]
    refused = await asyncio.to_thread(run_client, "GET", f"{site.url}/jobs/", "admin", secret + "x")
    assert refused.startswith("401 ")
