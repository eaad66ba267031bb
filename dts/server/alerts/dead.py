"""Counts dead letters for alerts, wherever they are kept."""

from __future__ import annotations

from collections.abc import Sequence

from dts.model import DeadLetter
from dts.server.alerts.signals import Signal, Signals
from dts.store import Store


def watch_dead_letters(store: Store) -> None:
    """Count the dead letters that are kept by way of a store object, from here on."""
    signals, add = Signals(store), store.add_dead_letters

    async def counted(letters: Sequence[DeadLetter]) -> None:
        await add(letters)
        for letter in letters:
            function = str(letter.headers.get("function", ""))
            where = function or letter.queue or "an unknown queue"
            text = f"{where}: {letter.reason} {letter.headers.get('error', '')}".strip()
            signals.add(Signal("dead", text, function=function))
        await signals.flush()

    store.add_dead_letters = counted  # type: ignore[method-assign]
