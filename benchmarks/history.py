"""What 200 hosts with a heartbeat a second cost: CPU, memory and bytes in the store, of heartbeats and of history.

python -m benchmarks.history [HOSTS] [HOURS]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import psutil

from dts.model import WorkerState
from dts.server.history.hosts import COLLECTION, RESOLUTIONS, HostHistory, host_history
from dts.store import open_store


async def main(hosts: int, hours: float) -> None:
    """Let simulated time pass and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{folder}/store.db") as store:
            history = HostHistory(store)
            begin = time.time() // 86400 * 86400
            cpu = time.process_time()
            for second in range(int(hours * 3600)):
                history.note([heartbeat(number, begin + second) for number in range(hosts)])
                if second % 30 == 29:
                    await history.flush()
                if second % 300 == 299:
                    count, spent = await store.count_documents(COLLECTION), time.process_time() - cpu
                    print(
                        f"{second + 1} s: {count} documents, {size_of(folder)}, {rss()}, {spent:.1f} s CPU", flush=True
                    )
            began = time.perf_counter()
            rows = await host_history(store, "h7", RESOLUTIONS[1], since=begin, until=begin + hours * 3600)
            print(f"one host by the minute: {len(rows)} rows in {1000 * (time.perf_counter() - began):.1f} ms")


def heartbeat(number: int, at: float) -> WorkerState:
    """A heartbeat of a simulated host."""
    cpu = (at * 7 + number) % 100
    return WorkerState(f"h{number}-1", f"h{number}", at, cpu=cpu, memory=50.0, disk=60.0, load=1.5)


def size_of(folder: str) -> str:
    """The size of the store."""
    return f"store {sum([path.stat().st_size for path in Path(folder).iterdir()]) / 1e6:.1f} MB"


def rss() -> str:
    """The memory of this process."""
    return f"memory {psutil.Process().memory_info().rss / 1e6:.0f} MB"


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 200, float(sys.argv[2]) if sys.argv[2:] else 1.0))
