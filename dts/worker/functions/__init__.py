"""The functions that come with DTS: `ns/func` is `main` in `ns/func.py`. Nothing here runs when it is imported."""
