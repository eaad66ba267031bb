"""Files that are for their owner alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def create_private(path: Path, content: bytes) -> bool:
    """Make a file with mode 0600 unless it is there, whole or not at all; whether it was made."""
    if path.exists():
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # fails if another process was faster, and never shows half a file
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True
