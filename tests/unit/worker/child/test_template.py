"""The process that children are forked from: how it, and they, end."""

from __future__ import annotations

import select
import socket
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


def test_it_says_nothing_when_its_worker_has_died_before_it_has_read_all() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with subprocess.Popen(
        [sys.executable, "-m", "dts.worker.child.template", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
    ) as template:
        theirs.close()
        select.select([ours], [], [], 20)
        ours.close()
        _, said = template.communicate(timeout=20)
    assert (template.returncode, said) == (0, b"")
