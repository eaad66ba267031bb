"""What the bar on a terminal shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dts.client.command import bar as bar_module
from dts.client.command.bar import ProgressBar
from dts.client.components import IterableComponent
from dts.client.run.progress import Progress


@pytest.mark.parametrize("width", [80, 60])
def test_what_holds_a_run_up_is_on_the_line_of_the_bar(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        bar_module, "Console", lambda **_: Console(file=screen, width=width, force_terminal=True, color_system=None)
    )
    held = ["over the limit of user alice: unfinished (0)"]
    with ProgressBar(lambda: Progress(lines=20_000), IterableComponent([]), "text/upper", lambda: held[0]) as bar:
        bar.say(f"{held[0]}; waiting")
    assert "over the limit of user alice: unfinished (0); waiting\n" in screen.getvalue()
    assert "0 lines  0/s  held by a limit" in screen.getvalue()
    held[0] = ""
    screen.truncate(0)
    counts = {"running": 7, "queued": 1200, "delayed": 34}
    with ProgressBar(
        lambda: Progress(lines=20_000, failed=3, counts=counts), IterableComponent([]), "text/upper", lambda: held[0]
    ):
        pass
    assert "3 failed" in screen.getvalue()
    assert width < 80 or "7 running, 1,234 waiting" in " ".join(screen.getvalue().split())
    assert "held" not in screen.getvalue()
