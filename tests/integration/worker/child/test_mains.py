"""What `main` may be and give: wrapped by decorators, yielding large values, asking for a late attempt, cancelled."""

from __future__ import annotations

import msgspec
import pytest

from dts.wire.dts_pb2 import FAILED, Options
from dts.worker.attempt.exceptions import MAX_DELAY, Retry
from dts.worker.worker import Worker
from tests.services.waiting import within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

PLAIN = """
import functools
def plain(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)
    return wrapper
"""


@pytest.mark.parametrize(
    ("main", "given", "partials"),
    [
        ("async def main(n):\n    await asyncio.sleep(0.001)\n    return [n, context.job_id]", 0, b""),
        ("def main(n):\n    yield 7\n    return [n, context.job_id]", 0, b"[7]"),
        ("async def main(n):\n    await asyncio.sleep(0.001)\n    yield [n, context.job_id]", None, b"ids"),
    ],
)
async def test_a_plain_wrapper_around_what_is_not_plain_works(
    bench: Bench, main: str, given: object, partials: bytes
) -> None:
    bench.write("own/f", f"import asyncio\nfrom dts.worker import context\n{PLAIN}@plain\n{main}\n")
    async with Worker(bench.settings(), bench.broker):
        run = await bench.send("own/f", [0], [1])
        results = await bench.wait(run, 2)
    ids = [[n, f"{run}-{n}"] for n in (0, 1)]
    assert [value(result) for result in results] == ([None, None] if given is None else ids)
    told = [msgspec.json.encode([one]) for one in ids] if partials == b"ids" else [partials] * 2
    assert [result.partials for result in results] == told


async def test_what_a_wrapped_coroutine_raises_and_its_time_limit_are_its_jobs_own(bench: Bench) -> None:
    bench.write(
        "own/f",
        f"import asyncio\n{PLAIN}"
        "@plain\nasync def main(n):\n"
        "    if n == 0: raise ValueError('no')\n"
        "    if n == 1: await asyncio.sleep(3600)\n"
        "    return n\n",
    )
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", [0], [1], [2], options=Options(soft_timeout=0.3))
    assert [result.error.type for result in results] == ["ValueError", "SoftTimeout", ""]
    assert "During handling" not in results[0].error.traceback
    assert value(results[2]) == 2


async def test_what_is_nested_and_not_done_is_told_what_to_do(bench: Bench) -> None:
    bench.write("own/f", "async def g(): pass\ndef main():\n    return [g()]")
    async with Worker(bench.settings(), bench.broker):
        [result] = await bench.run("own/f", [])
    assert result.status == FAILED
    assert "result[0] is of type coroutine" in result.error.message


async def test_a_yielded_value_that_is_too_large_is_replaced_by_a_note(bench: Bench) -> None:
    bench.write("own/f", "def main():\n    yield 1\n    yield 'x' * 5000\n    yield 2\n    return 'end'")
    async with Worker(bench.settings(max_partials=1000), bench.broker):
        [result] = await bench.run("own/f", [])
    assert value(result) == "end"
    assert msgspec.json.decode(result.partials) == [1, {"too_large": 5002, "limit": 1000}, 2]


@pytest.mark.parametrize("delay", [1e300, 1e12, MAX_DELAY + 1, -1, float("nan")])
def test_a_retry_has_a_delay_that_somebody_can_wait_for(delay: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 2592000, 30 days"):
        Retry(delay=delay)
    assert Retry(delay=MAX_DELAY).delay == MAX_DELAY


async def test_a_task_that_cancels_itself_says_so(bench: Bench) -> None:
    bench.write(
        "own/f", "import asyncio\nasync def main():\n    asyncio.current_task().cancel()\n    await asyncio.sleep(1)"
    )
    async with Worker(bench.settings(), bench.broker), within():
        [result] = await bench.run("own/f", [])
    assert "the function did that itself" in result.error.message
