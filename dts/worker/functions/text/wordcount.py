"""How many words and characters a text has."""


def main(text: str) -> dict[str, int]:
    """`"to be"` gives `{"words": 2, "characters": 5}`; words are what white space separates."""
    return {"words": len(text.split()), "characters": len(text)}
