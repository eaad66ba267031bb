"""Functions that do their worst to the process that runs them."""

from __future__ import annotations

import textwrap

HOSTILE = {
    # name: (code of the deed, what the error says; None where the job itself does no harm to itself)
    "sys_exit": ("sys.exit('bye')", "bye"),
    "base_exception": ("raise type('Own', (BaseException,), {})('out')", "out"),
    "keyboard_interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "os_exit": ("os._exit(3)", "exited with status 3"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "abort": ("os.abort()", "SIGABRT"),
    "kill_itself": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "stop_itself": ("os.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    "memory": ("x = [bytearray(2**24) for _ in range(1000)]", "memory"),
    "endless": ("while True: pass", "timeout"),
    "lock_held": ("import re; re.match('(a+)+$', 'a' * 60 + 'b')", "timeout"),
    "no_sigterm": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: time.sleep(1)",
        "timeout",
    ),
    "swallows_all": ("while True:\n    try: time.sleep(1)\n    except BaseException: pass", "timeout"),
    "recursion": ("def f(n): return f(n + 1)\nf(0)", "recursion"),
    "deep_recursion": (
        "import json; sys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\njson.dumps(x)",
        "",
    ),
    "closed_stdout": ("sys.stdout.close(); os.close(1); os.close(2)", None),
    "closed_all": ("os.closerange(0, 1000)", "the process of the job"),
    "flood": ("for _ in range(300): print('x' * 10000)", None),
    "cwd": ("import tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())", None),
    "signal_handlers": (
        "for n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)",
        None,
    ),
    "garbage": (
        "for fd in range(3, 40):\n    try: os.write(fd, b'x' * 64)\n    except OSError: pass",
        "wrote to the descriptor",
    ),
    "black_hole": ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))", None),
    "moved_output": ("os.dup2(os.open('/dev/null', os.O_WRONLY), 1)", None),
    "no_stdout": ("sys.stdout = None", None),
    "no_more_time": ("import socket; socket.setdefaulttimeout(0.0); sys.setswitchinterval(100)", None),
    "no_subprocess": ("sys.modules['subprocess'] = None", None),
    "slow": ("os.nice(19); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])", None),
    "traced": ("sys.settrace(lambda *_: 1 / 0); sys.setprofile(lambda *_: None)", None),
    "environment": ("os.environ.clear()", None),
    "sys_path": ("sys.path.clear(); sys.meta_path.clear()", None),
    "locale_umask": ("import locale; locale.setlocale(locale.LC_ALL, 'C'); os.umask(0o777)", None),
    "threads": (
        "import threading\nfor _ in range(5): threading.Thread(target=time.sleep, args=(1000,)).start()",
        None,
    ),
    "subprocess": ("import subprocess; subprocess.Popen(['sleep', '4321'])", None),
    "daemon": ("import subprocess; subprocess.Popen(['sleep', '4321'], start_new_session=True)", None),
    "double_fork": (
        "if os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork() == 0: os.execvp('sleep', ['sleep', '4321'])\n"
        "    os._exit(0)",
        None,
    ),
    "text_of_its_own": (
        "class S(str):\n  def __len__(s): raise KeyboardInterrupt\n  def isascii(s): sys.exit(1)\n"
        "class E(Exception):\n  def __str__(s): return S('hello')\nraise E()",
        "E: hello",
    ),
    "odd_module": (
        "class B:\n  def __str__(s): raise RuntimeError\nraise type('E', (Exception,), {'__module__': B()})('hi')",
        "E: hi",
    ),
    "odd_type": (
        "class M(type):\n  __module__ = __name__ = __mro__ = property(lambda c: sys.exit(1))\n"
        "class E(Exception, metaclass=M): pass\nraise E('hi')",
        "E: hi",
    ),
    "class_raises": ("class E(Exception):\n  __class__ = property(lambda s: sys.exit(1))\nraise E('hi')", "E: hi"),
    "class_lies": (
        "from dts.worker import Retry\nclass E(Exception):\n  __class__ = property(lambda s: Retry)\nraise E('hi')",
        "E: hi",
    ),
    "error_of_ours": (
        "from dts.errors import LoadError\nclass E(LoadError):\n  def __init__(s): pass\nraise E()",
        "E: ",
    ),
    "no_parts": (
        "class E(Exception):\n  __traceback__ = __cause__ = __context__ = property(lambda s: sys.exit(1))\n"
        "raise E('hi')",
        "E: hi",
    ),
    "own_retry": (
        "from dts.worker import Retry\nclass E(Retry):\n  def __init__(s, x): s.delay = x\nraise E('soon')",
        "E: soon",
    ),
    "result_lies": (
        "class W:\n  __class__ = property(lambda s: str)\nreturn W()",
        "deed_result_lies.<locals>.W, which is not a JSON value",
    ),
    "result_raises": ("class W:\n  __class__ = property(lambda s: sys.exit(1))\nreturn W()", "ResultNotJSON"),
    "huge_result": ("return 'x' * 50_000_000", "limit"),
    "modules": ("sys.modules.clear()", None),
    "json": ("import json; json.dumps = json.loads = json.JSONEncoder.encode = None", None),
    "time": ("time.sleep = time.time = time.monotonic = time.perf_counter = None", None),
    "alarm": ("signal.setitimer(signal.ITIMER_REAL, 0.05)", None),
    "excepthook": ("sys.excepthook = sys.unraisablehook = None; sys.settrace(None)", None),
    "builtins": ("import builtins; builtins.len = builtins.range = builtins.print = None", None),
    "threads_builtins": (
        "import builtins, threading\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "for name in ('len', 'range', 'isinstance', 'getattr'): setattr(builtins, name, None)",
        None,
    ),
}


def hostile_module() -> str:
    """A module whose `main(how)` does the deed of that name, or is harmless and returns its argument."""
    parts = ["import os, signal, sys, time"]
    for name, (code, _) in HOSTILE.items():
        parts.append(f"def deed_{name}():\n{textwrap.indent(code, '    ')}")
    parts.append(
        "def main(how, *rest):\n    deed = globals().get(f'deed_{how}')\n    if deed is not None: return deed()\n"
        "    return how\n"
    )
    return "\n".join(parts)
