"""Always fails."""


def main(*args: object) -> None:
    """Raises ValueError with what it was given."""
    raise ValueError(f"failed as asked to, with {args!r}")
