"""Lines of the log: no text in them passes for another one."""

from __future__ import annotations

import logging

from dts.runtime.logs import EscapingFormatter


def line(message: str, *args: object) -> str:
    record = logging.LogRecord("dts", logging.WARNING, __file__, 1, message, args, None)
    return EscapingFormatter("%(asctime)s %(levelname)s: %(message)s").format(record)


def test_a_forged_line_is_indented() -> None:
    forged = "x\n2026-01-01 00:00:00,000 WARNING: admin was deleted"
    first, second = line("there is no function %s", forged).split("\n")
    assert first.endswith("there is no function x")
    assert second.startswith("    2026-01-01")


def test_control_characters_are_shown() -> None:
    text = line("there is no function %s", "a\x1b[2Jb\rc\x9bd\u202ee\u2028f\x00")
    assert text.endswith(r"a\x1b[2Jb\rc\x9bd\u202ee\u2028f\x00")


def test_ordinary_text_stays() -> None:
    assert line("%s\t%s", "naïve", "日本").endswith("naïve\t日本")
