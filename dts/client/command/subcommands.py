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
from dts.client.stdio import show, tell
from dts.runtime import process

Command = Callable[[DtsClient, argparse.Namespace], Awaitable[Any]]

_STATES = ("accepted", "queued", "running", "delayed", "succeeded", "failed", "cancelled")


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
                show(f"{run['id']}  {_ago(run['created'])}  {_state(run):9}  {run['function']}")
        elif name == "why":
            show(reason(answer))
        else:
            show(summary(answer))
        return process.EXIT_OK

    return parser, main


def summary(run: dict[str, Any]) -> str:
    """A run in a few words."""
    counts = run["statistics"]
    parts = [f"{counts[state]} {state}" for state in _STATES if counts[state]]
    lines = f"{counts['total']} lines: {', '.join(parts)}" if parts else "no lines"
    return f"run {run['id']} of {run['function']} is {_state(run)}, {lines}"


def reason(run: dict[str, Any]) -> str:
    """Why a run does not get on, in a sentence for each reason; or that it does."""
    counts, found = run["statistics"], []
    if run["finished"]:
        return f"the run has finished: {summary(run)}"
    if run["state"] == "cancelled":
        return f"the run is cancelled: {summary(run)}"
    if run["paused"]:
        found.append("it is paused: `dts-client resume` lets it go on")
    found += _waits_for(run)
    if counts["running"]:
        found.append(f"{counts['running']} lines are at work")
    if counts["delayed"]:
        found.append(f"{counts['delayed']} lines wait for their next attempt, their time, or a limit of lines at once")
    if counts["accepted"]:
        found.append(f"{counts['accepted']} lines are accepted and wait to be handed to the broker")
    if counts["queued"]:
        found.append(f"{counts['queued']} lines wait for a worker that is free")
    if run["state"] == "open":
        found.append("its client has not said that all lines are sent")
    return "\n".join(found)


def _waits_for(run: dict[str, Any]) -> list[str]:
    """What its next line waits for, and when it may end, as the server says."""
    waiting: dict[str, Any] = run.get("waiting") or {}
    if not waiting or run["paused"]:
        return []
    found = [f"its next line waits: {waiting['text']}"]
    if ends := waiting.get("ends"):
        found.append(f"it ends about {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(ends))} if nothing else comes")
    return found


def _state(run: dict[str, Any]) -> str:
    return "finished" if run.get("finished") else "paused" if run["paused"] else str(run["state"])


def _ago(created: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(created))
