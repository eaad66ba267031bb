"""What a SQLite store does when the clock of its machine is set: what counts from then to then moves with it.

Times are kept in seconds since the epoch. A delay of a minute that was noted before the clock was set back by two hours
would last two hours and a minute, and a lease would expire at once when the clock is set forward. The kernel has a
clock that nobody can set and that all processes of the machine share until it is started again. How far the two are
apart is noted; when that has changed, so has the clock. Times that a user has named (`not_before`) stay.
"""

from __future__ import annotations

import time
from pathlib import Path
from sqlite3 import Connection

CLOCK_TABLES = """
CREATE TABLE clock (boot TEXT PRIMARY KEY, apart REAL NOT NULL) STRICT, WITHOUT ROWID;
"""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_TOLERANCE = 2.0
"""Seconds that the two clocks may drift apart, as while NTP slows one down, before times are moved."""

_MOVES = (
    "UPDATE delayed SET due = due + ?1, leased_until = leased_until + ?1 WHERE fired IS NULL",
    "UPDATE leases SET expires = expires + ?1 WHERE expires IS NOT NULL",
    """UPDATE heartbeats SET time = time + ?1,
       data = CAST(json_set(CAST(data AS TEXT), '$.time', time + ?1) AS BLOB)""",
    "UPDATE holders SET until = until + ?1",
    """UPDATE blocks SET leased_until = leased_until + ?1,
       due = CASE WHEN due > not_before THEN max(due + ?1, not_before) ELSE due END
       WHERE NOT published AND count > succeeded + failed + cancelled""",
)


def follow_clock(db: Connection) -> float:
    """Move times if the clock was set since the last call of any process; returns by how many seconds it was."""
    boot, apart = _boot(), time.time() - time.monotonic()
    if not boot:
        return 0.0  # without it a restart of the machine could not be told from a clock that was set
    row = db.execute("SELECT apart FROM clock WHERE boot = ?", (boot,)).fetchone()
    step = apart - row[0] if row else 0.0
    if row and abs(step) <= _TOLERANCE:
        return 0.0
    for move in _MOVES if step else ():
        db.execute(move, (step,))
    db.execute("DELETE FROM clock")
    db.execute("INSERT INTO clock (boot, apart) VALUES (?, ?)", (boot, apart))
    return step


def must_follow(db: Connection) -> bool:
    """Whether `follow_clock` has anything to do; a look that needs no transaction."""
    row = db.execute("SELECT apart FROM clock WHERE boot = ?", (_boot(),)).fetchone()
    return row is None or abs(time.time() - time.monotonic() - row[0]) > _TOLERANCE


def _boot() -> str:
    """What tells this start of the machine from others; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
