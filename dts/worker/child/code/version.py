"""Has this process run one deployed version: its files in place of the functions directory, and its packages first."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from dts.worker.child.code.loader import Loader
from dts.worker.functions import FOLDER
from dts.worker.link.versions import VersionFolder


def open_version(folder: VersionFolder, namespace: str) -> Loader:
    """An open loader of the functions of a version; what is beside them can be imported by its bare name, too."""
    if (environment := folder.environment) is not None:
        activate(environment)
    os.environ[FOLDER] = str(folder.functions)
    sys.path.append(str(folder.functions / namespace))  # last: a helper called queue.py hides nothing
    loader = Loader(folder.functions, version=folder.short)
    loader.open()
    return loader


def activate(environment: Path) -> None:
    """Have imports of this process, and programs that it starts, find the packages of a virtual environment first.

    What DTS has imported stays: the environment was made with these packages as they are.
    """
    packages = sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)})
    sys.path.insert(0, packages)
    sys.path_importer_cache.pop(packages, None)
    sys.executable = str(environment / "bin" / "python")
    os.environ["VIRTUAL_ENV"] = str(environment)
    os.environ["PATH"] = f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
