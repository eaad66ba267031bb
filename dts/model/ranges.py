"""How large the numbers may be that DTS accepts, in one table: each fits everything that it passes on its way.

| passes                        | holds                          |
|-------------------------------|--------------------------------|
| JSON, as JavaScript reads it  | integers up to 2**53 - 1       |
| SQLite, BSON, AMQP headers    | signed 64 bits                 |
| protobuf `uint32`             | 2**32 - 1                      |
| protobuf `uint64`, `double`   | more than JSON                 |
| frames to a child             | unsigned 64 bits               |
| datetime, `time_t`            | the year 9999                  |
"""

from __future__ import annotations

MAX_NUMBER = 2**53 - 1
"""The highest number of a job in its run, and of whatever else is counted."""

MAX_BLOCK = 2**31 - 1
"""The highest number of a block in its run. Times the most jobs of a block it is below MAX_NUMBER."""

MAX_SECONDS = 10 * 366 * 86400.0
"""Ten years: the longest time limit, delay or wait that means anything. Added to any time of today it is a date."""

MAX_TIME = 32503680000.0
"""The year 3000, in seconds since the epoch: the latest moment that may be named."""

MAX_BYTES = 2**50
"""The highest memory limit, in bytes."""

MAX_ATTEMPTS = 1_000_000
"""The most attempts at a job, and the most jobs that one process may run: what a counter of 32 bits holds by far."""

MAX_PAGE = 10_000
"""The most records that one page of a list may have."""
