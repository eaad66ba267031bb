"""What it costs to run functions of many namespaces: rows a second, children and their memory, and the time to switch.

    python -m benchmarks.namespaces [--quick N] [--heavy N] [--import pandas] [--messages N] [--size N] [--processes N]
        [--warm N]

Quick namespaces have a function that takes a microsecond; the heavy ones import a large package first. Messages of all
of them come in random order. The broker is a list in memory, so that what is measured is the worker alone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import uvloop

from benchmarks.worker import MemoryBroker, make_message
from dts.config import WorkerSettings
from dts.worker.worker import Worker


def write_functions(folder: Path, options: argparse.Namespace) -> list[str]:
    """Write the functions of all namespaces; returns their names."""
    names = []
    for number in range(options.quick + options.heavy):
        heavy = number >= options.quick
        namespace = folder / f"{'heavy' if heavy else 'quick'}{number}"
        namespace.mkdir()
        head = f"import {options.package}\n" if heavy else ""
        (namespace / "f.py").write_text(f"{head}def main(line):\n    return line.upper()\n")
        names.append(f"{namespace.name}/f")
    return names


def private_memory(processes: Sequence[psutil.Process]) -> float:
    """MB that processes hold of their own, beside what they share."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue  # it has ended
    return total / 2**20


async def measure(options: argparse.Namespace) -> None:
    """Run the messages, then switch between two namespaces that are warm, and to some that are not."""
    broker, chance = MemoryBroker(), random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        functions = write_functions(Path(name), options)
        await asyncio.sleep(1.1)  # a file counts as whole when it has not been written for a second
        more = {} if options.warm is None else {"warm_children": options.warm}
        settings = WorkerSettings(processes=options.processes, functions=name, **more)
        async with Worker(settings, broker):
            messages = [
                make_message(chance.choice(functions), number * options.size, options.size)
                for number in range(options.messages)
            ]
            broker.give([make_message(functions[0], 0, 1)])
            await broker.wait_acked(1)
            began, used = time.perf_counter(), processor_time()
            broker.give(messages)
            await broker.wait_acked(len(messages) + 1)
            seconds, rows = time.perf_counter() - began, options.messages * options.size
            used = processor_time() - used
            template, children = descendants()
            print(f"{rows / seconds:9.0f} rows/s, {used / options.messages * 1e3:6.2f} ms of CPU a message")
            print(f"{len(children):9} children alive, {private_memory(children):.0f} MB of their own")
            print(f"{private_memory([template]):9.0f} MB of the process that they are forked from")
            for when in ("again", "first"):
                await _switch(broker, functions, options, when)


async def _switch(broker: MemoryBroker, functions: Sequence[str], options: argparse.Namespace, when: str) -> None:
    """The time for a message of one job of another namespace than before, over that of the same one."""
    few = functions[: options.quick][-8:] if when == "again" else functions[: options.quick]
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(200):
        for repeat in (False, True):
            began = time.perf_counter()
            broker.give([make_message(few[number % len(few)], 0, 1)])
            await broker.wait_acked(broker.acked + 1)
            times[repeat].append((time.perf_counter() - began) * 1e3)
    other, same = statistics.median(times[False]), statistics.median(times[True])
    print(f"{other - same:9.2f} ms to switch among {len(few)} namespaces ({other:.2f} and {same:.2f} ms a message)")


def descendants() -> tuple[psutil.Process, list[psutil.Process]]:
    """The process that children are forked from, and the children."""
    template = psutil.Process().children()[0]
    return template, template.children()


def processor_time() -> float:
    """Seconds of processor time of this process and of all its descendants, also of those that have ended."""
    template, children = descendants()
    return time.process_time() + sum(sum(process.cpu_times()[:4]) for process in (template, *children))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", type=int, default=100)
    parser.add_argument("--heavy", type=int, default=5)
    parser.add_argument("--import", dest="package", default="pandas", help="what the heavy ones import")
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256, help="jobs of a message")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--warm", type=int, help="idle children that are kept, in place of the default")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
