"""`dts-client runs|status|why|cancel|pause|resume`: ask about the own runs, and change them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from dts.client.client import DtsClient
from dts.client.command.options import Parser, build_control_parser
from dts.client.credentials import load_credentials
from dts.client.run.explain import reason, state_of, summary
from dts.client.stdio import show, tell
from dts.runtime import process

Command = Callable[[DtsClient, argparse.Namespace], Awaitable[Any]]


async def _runs(client: DtsClient, options: argparse.Namespace) -> list[dict[str, Any]]:
    """List the runs of files, newest first."""
    runs: list[dict[str, Any]] = await client.transport.call("GET", "/runs/", query={"limit": 100})
    return runs


async def _status(client: DtsClient, options: argparse.Namespace) -> Any:
    """Show how far a run is."""
    return await client.transport.call("GET", f"/runs/{options.run}")


async def _cancel(client: DtsClient, options: argparse.Namespace) -> Any:
    """Cancel a run: what has not ended is cancelled, what has ended keeps its result."""
    return await client.transport.call("DELETE", f"/runs/{options.run}")


async def _set_state(client: DtsClient, options: argparse.Namespace, *, state: str) -> Any:
    return await client.transport.call("PATCH", f"/runs/{options.run}", {"state": state})


_COMMANDS: dict[str, tuple[str, Command]] = {
    "runs": ("List your runs, newest first.", _runs),
    "status": ("Show how far a run is.", _status),
    "why": ("Say what a run waits for.", _status),
    "cancel": ("Cancel a run: what has not ended is cancelled, what has ended keeps its result.", _cancel),
    "pause": ("Pause a run: nothing more of it is begun until it is resumed.", partial(_set_state, state="paused")),
    "resume": ("Go on with a run that was paused.", partial(_set_state, state="open")),
}

NAMES = frozenset(_COMMANDS)


def build(name: str) -> tuple[Parser, Callable[[argparse.Namespace, process.Shutdown], Awaitable[int]]]:
    """The command line of a subcommand, and what it does."""
    description, command = _COMMANDS[name]
    parser = build_control_parser(name, description, takes_run=name != "runs")

    async def main(options: argparse.Namespace, shutdown: process.Shutdown) -> int:
        credentials = load_credentials(options.username, options.secret_file)
        client = DtsClient(
            credentials.user_id,
            credentials.secret,
            options.server_url,
            give_up_after=options.give_up_after,
            notify=tell,
            cacert=options.cacert,
        )
        async with client:
            answer = await command(client, options)
        if options.json:
            for each in answer if isinstance(answer, list) else [answer]:
                show(json.dumps(each))
        elif name == "runs":
            for run in answer:
                show(f"{run['id']}  {_ago(run['created'])}  {state_of(run):9}  {run['function']}")
        elif name == "why":
            show(reason(answer))
        else:
            show(summary(answer))
        return process.EXIT_OK

    return parser, main


def _ago(created: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(created))
