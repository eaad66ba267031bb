"""Sleeps without keeping its process: many of these run at the same time."""

import asyncio


async def main(seconds: float = 1.0) -> float:
    """Sleep for `seconds`, and return them."""
    await asyncio.sleep(seconds)
    return seconds
