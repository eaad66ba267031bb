"""The functions that come with DTS: `ns/func` is `main` in `ns/func.py`.

A worker's children import its own functions from here, too, by a finder of theirs. A process that one of these starts
afresh, as `multiprocessing` does by `spawn`, has only the folder's name in its environment.
"""

import os

FOLDER = "PYTHON_DTS_FUNCTIONS"
"""The variable that names the folder of a worker's own functions, in the environment of its children alone."""

if _folder := os.environ.get(FOLDER):
    __path__.insert(0, os.path.abspath(_folder))
