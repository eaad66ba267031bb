"""Tries a function's source out in this process: whether it can be imported, and passes its own `self_test()`.

    python -m dts.worker.child.code.try_out FUNCTIONS NS/FUNC [ENVIRONMENT]

The exit status says what came of it; what went wrong is on stderr. It runs code that is about to be deployed, so it is
run by whoever deploys, or on the host that is going to run the code anyway, never in the server.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import traceback
from pathlib import Path

from dts.errors import DtsError
from dts.worker.child.code.loader import Loader
from dts.worker.child.code.version import activate
from dts.worker.functions import FOLDER

PASSED, FAILED, NO_SELF_TEST, PACKAGE_MISSING = 0, 1, 3, 4
"""Exit statuses. PACKAGE_MISSING: it imports a package that is not installed here."""


def main(arguments: list[str]) -> int:
    """Try a function out; returns the exit status."""
    folder, function, *environment = arguments
    if environment and environment[0]:
        activate(Path(environment[0]))
    namespace = function.partition("/")[0]
    os.environ[FOLDER] = folder
    sys.path.append(str(Path(folder) / namespace))
    with Loader(folder) as loader:
        try:
            main_of = loader.load(function).main
            module = sys.modules[f"dts.worker.functions.{function.replace('/', '.')}"]
            self_test = getattr(module, "self_test", None)
            if self_test is None:
                return NO_SELF_TEST
            result = self_test()
            if inspect.isawaitable(result):
                result = asyncio.run(_await(result))
        except DtsError as error:
            return _complain(error)
        except BaseException:  # noqa: BLE001 - whatever the code does, it has not passed
            traceback.print_exc()
            return FAILED
    if result is False:
        print(f"self_test() of {function} returned False", file=sys.stderr)  # noqa: T201
        return FAILED
    return PASSED if callable(main_of) else FAILED


async def _await(result: object) -> object:
    assert inspect.isawaitable(result)
    return await result


def _complain(error: DtsError) -> int:
    cause = error.__cause__
    if cause is not None:
        traceback.print_exception(cause)
    print(error.message, file=sys.stderr)  # noqa: T201
    return PACKAGE_MISSING if isinstance(cause, ModuleNotFoundError) else FAILED


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # whatever threads the code has left
