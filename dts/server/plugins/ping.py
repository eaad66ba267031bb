"""Answers, to show that a server takes jobs and ends them."""

from __future__ import annotations

from dts.server.context import Context


async def main(context: Context) -> str:
    """Answer "pong"."""
    await context.store.ping()
    return "pong"
