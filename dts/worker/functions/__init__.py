"""The functions that come with DTS: `ns/func` is `main` in `ns/func.py`.

A worker's children import its own functions from here, too, by a finder of theirs. A process that one of these starts
afresh, as `multiprocessing` does by `spawn`, has only the folder's name in its environment.
"""

import os

FOLDER = "DTS_WORKER_FUNCTIONS"
"""The variable of the environment that names the folder of a worker's own functions."""

if _folder := os.environ.get(FOLDER):
    __path__.insert(0, os.path.abspath(_folder))
