"""What Tab offers: commands, flags, field names, their values, and ids that the server knows."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from dts.errors import DtsError
from dts.management.api.resources import Listing
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import Command, Grammar
from dts.management.shell.session import Session

OFFERED = 100
"""Ids that are fetched at most."""

FRESH = 10.0
"""Seconds for which ids that were fetched are offered again."""

_PAGED_BY_ID = frozenset({"users", "namespaces", "functions", "vhosts", "schedules"})
"""Lists in the order of their ids, so that a page can begin at what was typed."""

_MOST_PREFIXES = 200


class Ids:
    """Ids as the server lists them, kept for some seconds. A server that is away has none to offer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kept: dict[tuple[str, str], tuple[float, list[str]]] = {}

    async def starting_with(self, kind: str, prefix: str) -> list[str]:
        """Ids of a kind of thing that begin with what was typed."""
        key = (kind, prefix if kind in _PAGED_BY_ID else "")
        fetched, ids = self._kept.get(key, (0.0, []))
        if time.monotonic() - fetched > FRESH or not fetched:
            ids = await self._fetch(*key)
            if len(self._kept) >= _MOST_PREFIXES:
                self._kept.clear()
            self._kept[key] = (time.monotonic(), ids)
        return [each for each in ids if each.startswith(prefix)]

    async def _fetch(self, kind: str, prefix: str) -> list[str]:
        client = self._session.silent_client()
        if client is None:
            return []
        try:
            listing: Listing = getattr(client, kind)
            after = _just_before(prefix)
            return [str(row["id"]) async for row in listing.list(limit=OFFERED, after=after)]
        except DtsError:
            return []  # nothing to offer is no reason to disturb who is typing
        finally:
            client.close()


class CommandCompleter(Completer):
    """Completes a line of the shell."""

    def __init__(self, grammar: Grammar, ids: Ids) -> None:
        self._grammar = grammar
        self._ids = ids

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Nothing: the shell asks asynchronously."""
        return ()

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """What may stand where the cursor is."""
        words = re.split(r"\s+", document.text_before_cursor.lstrip())
        *before, current = words
        for text, typed, about in await self._candidates(before, current):
            yield Completion(text, start_position=-len(typed), display_meta=about)

    async def _candidates(self, before: list[str], current: str) -> list[tuple[str, str, str]]:
        """Texts, the part of the word that each takes the place of, and what to say beside it."""
        grammar = self._grammar
        if not before:
            return _matching(((noun, self._about(noun)) for noun in grammar.nouns), current)
        if before[0] == "help":
            return self._for_help(before[1:], current)
        verbs = grammar.verbs(before[0])
        if len(before) == 1 and verbs:
            pairs = ((verb, grammar.commands[f"{before[0]} {verb}"].summary) for verb in verbs)
            return _matching(pairs, current)
        for count in (3, 2, 1):
            if found := grammar.commands.get(" ".join(before[:count])):
                return await self._arguments(found, before[count:], current)
        return []

    def _about(self, noun: str) -> str:
        if noun in self._grammar.commands:
            return self._grammar.commands[noun].summary
        return ", ".join(self._grammar.verbs(noun))

    def _for_help(self, before: list[str], current: str) -> list[tuple[str, str, str]]:
        if not before:
            return _matching(((noun, "") for noun in self._grammar.nouns), current)
        verbs = self._grammar.verbs(before[0]) if len(before) == 1 else []
        return _matching(((verb, "") for verb in verbs), current)

    async def _arguments(self, found: Command, before: list[str], current: str) -> list[tuple[str, str, str]]:
        if current.startswith("-"):
            return _matching(((flag.name, flag.help) for flag in found.all_flags if flag.name not in before), current)
        given = [word for word in before if "=" not in word and not word.startswith("-")]
        name, equals, value = current.partition("=")
        if equals:
            return await self._values(found, name, value)
        offers: list[tuple[str, str]] = []
        if found.ids and not given:
            offers += [(each, found.ids) for each in await self._ids.starting_with(found.ids, current)]
        if found.readable and given:
            offers += [(each, "") for each in found.readable if each not in given]
        elif given or not found.least:
            written = {word.partition("=")[0] for word in before}
            offers += [(f"{each.name}=", each.help) for each in found.fields if each.name not in written]
        return _matching(offers, current)

    async def _values(self, found: Command, name: str, value: str) -> list[tuple[str, str, str]]:
        field = next((each for each in found.fields if each.name == name), None)
        if field is None:
            return []
        last = value.rpartition(",")[2] if field.kind is Kind.LIST else value
        texts = await self._texts(field, last)
        return _matching(((text, "") for text in texts), last)

    async def _texts(self, field: Field, typed: str) -> list[str]:
        if field.choices:
            return list(field.choices)
        if field.kind is Kind.BOOLEAN:
            return ["yes", "no"]
        if field.kind is Kind.SECRET:
            return ["generate"]
        if field.ids:
            return await self._ids.starting_with(field.ids, typed)
        return []


def _matching(offers: Iterable[tuple[str, str]], current: str) -> list[tuple[str, str, str]]:
    return [(text, current, about) for text, about in offers if text.startswith(current)]


def _just_before(prefix: str) -> str | None:
    """A text that sorts before every id with a prefix and after nearly all the others: a list can begin after it."""
    return prefix[:-1] + chr(ord(prefix[-1]) - 1) + "~" if prefix else None
