"""The sum of numbers."""


def main(*numbers: float) -> float:
    """`1, 2.5` gives `3.5`; no numbers give 0. Raises TypeError for anything that is not a number."""
    return sum(numbers)
