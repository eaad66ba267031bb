"""A notice: what is the matter, where, and since when; and how it reads in a mail."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MAX_TITLE = 200  # characters


@dataclass(frozen=True, slots=True)
class Notice:
    """What recipients learn. `id` is that of the event: the same event posted twice is one notice.

    `kind` is the event's type for programs, such as `alert.began`. `title` is one line, `text` may have several.
    `where` names the host, function or run; `since` is in seconds since the epoch, 0 where it does not apply; `data`
    is what webhooks get besides.
    """

    id: str
    kind: str
    title: str
    text: str = ""
    where: str = ""
    since: float = 0.0
    link: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The title as one line of a bounded length."""
        return "[DTS] " + " ".join(self.title.split())[:_MAX_TITLE]

    def rows(self) -> list[tuple[str, str]]:
        """What a mail says besides the text: where, since when, and where to look."""
        rows = [("Where", self.where), ("Since", clock(self.since) if self.since else ""), ("Link", self.link)]
        return [(name, value) for name, value in rows if value]

    def as_text(self) -> str:
        """The notice as plain text."""
        facts = "\n".join(f"{name}: {value}" for name, value in self.rows())
        return "\n\n".join(part for part in (self.title, self.text, facts) if part) + "\n"

    def as_html(self) -> str:
        """The notice as HTML."""
        rows = "".join(
            f"<tr><td><b>{name}</b></td><td>{_linked(value) if name == 'Link' else html.escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return (
            f"<html><body><h3>{html.escape(self.title)}</h3><pre>{html.escape(self.text)}</pre>"
            f"<table>{rows}</table></body></html>\n"
        )


def clock(seconds: float) -> str:
    """A time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _linked(url: str) -> str:
    return f'<a href="{html.escape(url, quote=True)}">{html.escape(url)}</a>'
