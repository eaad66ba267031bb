"""The process that children are forked from: how it, and they, end."""

from __future__ import annotations

import subprocess
import sys

_SPOILED = """
import builtins, threading, time
from dts.worker import template

def main(arguments):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    builtins.len = None
    raise OSError("nothing works any more")

template.main = main
template.run()
"""


def test_a_child_ends_with_threads_left_over_and_builtins_gone() -> None:
    ended = subprocess.run([sys.executable, "-c", _SPOILED], stderr=subprocess.PIPE, timeout=20, check=False)
    assert ended.returncode == 1
