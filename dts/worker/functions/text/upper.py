"""The text in upper case."""


def main(text: str) -> str:
    """`"abc"` becomes `"ABC"`."""
    return text.upper()
