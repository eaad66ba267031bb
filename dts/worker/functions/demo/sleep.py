"""Sleeps, and keeps its process busy with that: a slow function."""

import time


def main(seconds: float = 1.0) -> float:
    """Sleep for `seconds`, and return them."""
    time.sleep(seconds)
    return seconds
