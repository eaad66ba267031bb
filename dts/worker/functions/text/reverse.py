"""The text backwards."""


def main(text: str) -> str:
    """`"abc"` becomes `"cba"`."""
    return text[::-1]
