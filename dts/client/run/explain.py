"""A run in words: how far it is, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

_STATES = ("accepted", "queued", "running", "delayed", "succeeded", "failed", "cancelled")


def summary(run: Mapping[str, Any]) -> str:
    """A run in a few words."""
    counts = run["statistics"]
    parts = [f"{counts[state]} {state}" for state in _STATES if counts[state]]
    lines = f"{counts['total']} lines: {', '.join(parts)}" if parts else "no lines"
    return f"run {run['id']} of {run['function']} is {state_of(run)}, {lines}"


def state_of(run: Mapping[str, Any]) -> str:
    """The state of a run as a person would say it."""
    return "finished" if run.get("finished") else "paused" if run["paused"] else str(run["state"])


def held_up_by(run: Mapping[str, Any]) -> str:
    """What the next line of a run waits for, as the server says; empty when it waits for nothing but its turn."""
    if run["paused"]:
        return "it is paused: `dts-client resume` lets it go on"
    waiting = run.get("waiting") or {}
    return str(waiting.get("text", ""))


def reasons(run: Mapping[str, Any]) -> list[str]:
    """What a run that has not ended waits for, and when it may end, in a sentence each."""
    counts, found = run["statistics"], []
    if held := held_up_by(run):
        found.append(held if run["paused"] else f"its next line waits: {held}")
    if ends := (run.get("waiting") or {}).get("ends"):
        found.append(f"it ends about {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(ends))} if nothing else comes")
    if counts["running"]:
        found.append(f"{counts['running']} lines are at work")
    if counts["delayed"]:
        found.append(f"{counts['delayed']} lines wait for their next attempt, their time, or a limit of lines at once")
    if counts["accepted"]:
        found.append(f"{counts['accepted']} lines are accepted and wait to be handed to the broker")
    if counts["queued"]:
        found.append(f"{counts['queued']} lines wait for a worker that is free")
    return found


def reason(run: Mapping[str, Any]) -> str:
    """Why a run does not get on, in a sentence for each reason; or that it does."""
    if run["finished"]:
        return f"the run has finished: {summary(run)}"
    if run["state"] == "cancelled":
        return f"the run is cancelled: {summary(run)}"
    found = reasons(run)
    if run["state"] == "open":
        found.append("its client has not said that all lines are sent")
    return "\n".join(found)
