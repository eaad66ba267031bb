"""How far what follows a run is, as its document keeps it."""

from __future__ import annotations

import msgspec


class Progress(msgspec.Struct, omit_defaults=True):
    """What is done of what follows a run.

    Blocks before `low` are passed on as a whole, of the others so many parts as `passed` says. `source` is the run
    whose results are reduced now, the `level`-th of those that were made for it. `calls` has the runs of functions that
    were told of the end. `problem` is why something did not come about.
    """

    low: int = 0
    passed: dict[str, int] = {}
    passed_on: bool = False
    source: str = ""
    level: int = 0
    reduced: bool = False
    calls: dict[str, str] = {}
    problem: str = ""
    idle: float = 0.0
    """Seconds that passed between the last two looks without news."""
    moved: bool = False
    """Whether this look found news."""

    def fail(self, problem: str) -> None:
        """Note the first thing that went wrong."""
        self.problem = self.problem or problem[:500]
