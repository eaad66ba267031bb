"""How fast the whole path is: lines through `text/upper`, and single jobs from submit to result.

    python -m benchmarks.throughput                       # both sets of back ends, 100,000 lines
    python -m benchmarks.throughput --backends cluster --lines 1000000

Starts its own services and processes, all on this machine, and stops them. Prints jobs a second, CPU microseconds a
job for each process, and latency percentiles of single jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from dts.client import DtsClient
from tests.services.deployment import Deployment, rows
from tests.services.mongodb import MongoServer
from tests.services.rabbitmq import RabbitServer

BACKENDS = ("embedded", "cluster")


@contextmanager
def running(backends: str, folder: Path) -> Iterator[tuple[Deployment, dict[str, int]]]:
    """A deployment under load, and the process ids to account for by name."""
    with ExitStack() as stack:
        services: dict[str, int] = {}
        deployment = Deployment(folder)
        if backends == "cluster":
            mongo = MongoServer()
            mongo.start()
            stack.callback(mongo.stop)
            rabbit = RabbitServer()
            rabbit.start()
            stack.callback(rabbit.stop)
            deployment.store_url, deployment.broker_url = mongo.url("benchmark"), rabbit.url
            services = {"mongod": mongo.pid, "rabbitmq": rabbit.pid}
        stack.callback(deployment.stop)
        deployment.start_all()
        names = ["server", "worker", *([] if deployment.embedded else ["daemons"])]
        yield deployment, {**{name: deployment.pid(name) for name in names}, **services}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with its children, living and ended."""
    process = psutil.Process(pid)
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


def measure_throughput(deployment: Deployment, pids: dict[str, int], lines: int, function: str) -> None:
    """Send a file through and print what it took."""
    infile, outfile = deployment.folder / "in.txt", deployment.folder / "out.json"
    with infile.open("w") as file:
        file.writelines(f"the quick brown fox jumps over the lazy dog, {number}\n" for number in range(lines))
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    client_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    command = deployment.client_command(function, infile, outfile, "--quiet")
    subprocess.run(command, cwd=deployment.folder, env=deployment.env(), check=True)
    seconds = time.perf_counter() - began
    client_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    spent["client"] = (client_after.ru_utime + client_after.ru_stime) - (
        client_before.ru_utime + client_before.ru_stime
    )
    numbers = sorted(row["line"] for row in rows(outfile))
    if numbers != list(range(1, lines + 1)):
        raise SystemExit(f"{outfile} does not have exactly one row for each line")
    print(f"  {lines} lines in {seconds:.2f} s: {lines / seconds:,.0f} jobs/s")
    for name, value in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"    {name:10} {value / lines * 1e6:6.1f} µs of CPU a job")
    print(f"    {'in all':10} {sum(spent.values()) / lines * 1e6:6.1f} µs of CPU a job")


async def measure_latency(deployment: Deployment, jobs: int) -> None:
    """Submit single jobs one after the other and print how long each took until its result was there."""
    secret = (deployment.folder / "var/admin.secret").read_text().strip()
    client = DtsClient("admin", secret, deployment.url)
    for _ in range(20):  # warm up
        await client.get(await client.submit("text/upper", "x"), wait=10)
    times = []
    for number in range(jobs):
        began = time.perf_counter()
        job = await client.submit("text/upper", f"line {number}")
        answer = await client.get(job, wait=10)
        times.append((time.perf_counter() - began) * 1000)
        if answer["result"] != f"LINE {number}":
            raise SystemExit(f"wrong answer: {answer}")
    cuts = statistics.quantiles(times, n=100)
    print(f"  one job at a time, submit to result: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms ({jobs} jobs)")


def main() -> int:
    """Run the benchmark on each set of back ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", choices=[*BACKENDS, "both"], default="both")
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=300, help="single jobs to measure the latency of")
    parser.add_argument("--function", default="text/upper")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    memory = psutil.virtual_memory().total / 2**30
    print(f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}")
    for backends in BACKENDS if options.backends == "both" else (options.backends,):
        print(backends)
        with (
            tempfile.TemporaryDirectory(prefix="dts-benchmark-") as folder,
            running(backends, Path(folder)) as (deployment, pids),
        ):
            for _ in range(options.repeat):
                measure_throughput(deployment, pids, options.lines, options.function)
            if options.jobs:
                asyncio.run(measure_latency(deployment, options.jobs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
