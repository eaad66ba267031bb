"""How soon a user gets results while another one's long file is under way, and which share of the work.

    python -m benchmarks.fairness                        # both sets of back ends
    python -m benchmarks.fairness --backends embedded --lines 100000 --milliseconds 1

User A sends a long file. When it is under way, user B sends one line, ten lines, then a file as long as A's. Prints how
long B waited for its first result each time, and B's share of all results while both had work.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.throughput import BACKENDS, running
from dts.client import DtsClient
from tests.services.deployment import Deployment

_MEASURED = 8.0  # seconds in which shares are counted


def _client(deployment: Deployment, user: str) -> DtsClient:
    if user != "admin":
        command = "users", "add", user, "namespaces=*", "secret=generate", "--secret-file", f"var/{user}.secret"
        answer = deployment.admin(*command)
        if answer.returncode:
            raise SystemExit(answer.stdout + answer.stderr)
    secret = (deployment.folder / f"var/{user}.secret").read_text().strip()
    return DtsClient(user, secret, deployment.url)


def _lines(count: int, seconds: float) -> Iterator[list[float]]:
    for _ in range(count):
        yield [seconds]


async def _first(client: DtsClient, lines: int, seconds: float) -> float:
    """Seconds until the first of some lines has its result."""
    began, first = time.perf_counter(), asyncio.Event()
    run = asyncio.create_task(client.run("demo/sleep", _lines(lines, seconds), lambda _: first.set()))
    await first.wait()
    waited = time.perf_counter() - began
    await run
    return waited


async def measure(deployment: Deployment, lines: int, seconds: float) -> None:
    """Print B's waits and shares."""
    async with _client(deployment, "admin") as long, _client(deployment, "bob") as short:
        results: Counter[str] = Counter()
        busy, begun = asyncio.Event(), asyncio.Event()

        def count(user: str) -> None:
            results[user] += 1
            (busy if user == "A" else begun).set()

        first = asyncio.create_task(long.run("demo/sleep", _lines(lines, seconds), lambda _: count("A")))
        await busy.wait()
        await asyncio.sleep(3.0)
        for some in (1, 10):
            waited = await _first(short, some, seconds)
            print(f"  B's first of {some} lines after {waited:.2f} s, when A had {results['A']} of {lines}")
        began = time.perf_counter()
        second = asyncio.create_task(short.run("demo/sleep", _lines(lines, seconds), lambda _: count("B")))
        await begun.wait()
        print(f"  B's first of {lines} lines after {time.perf_counter() - began:.2f} s")
        before = Counter(results)
        await asyncio.sleep(_MEASURED)
        done = {user: results[user] - before[user] for user in "AB"}
        share = done["B"] / max(1, sum(done.values()))
        so_long = f"{_MEASURED:.0f} s" + ("" if not first.done() else ", in which A's file ended")
        print(f"  B's share of {sum(done.values())} results in {so_long}: {share:.0%}")
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


def main() -> int:
    """Run the benchmark on each set of back ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", choices=[*BACKENDS, "both"], default="both")
    parser.add_argument("--lines", type=int, default=60_000)
    parser.add_argument("--milliseconds", type=float, default=1.0, help="that a line takes")
    options = parser.parse_args()
    for backends in BACKENDS if options.backends == "both" else (options.backends,):
        print(backends)
        with (
            tempfile.TemporaryDirectory(prefix="dts-benchmark-") as folder,
            running(backends, Path(folder)) as (deployment, _),
        ):
            asyncio.run(measure(deployment, options.lines, options.milliseconds / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
