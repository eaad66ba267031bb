"""How fast lists answer when there is much to list: 10,000 users and 50,000 operations, on both stores.

    python -m benchmarks.admin
    python -m benchmarks.admin --users 1000 --operations 5000

Starts a server in this process and asks it over HTTP. Prints milliseconds a request: median and worst of 30.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from dts.auth import Credentials, KeccakAuthenticator, Request
from dts.config import load_settings
from dts.model import Limits, Operation, User
from dts.server.access.key_box import KeyBox
from dts.server.app import Server
from dts.server.audit.log import OperationLog
from dts.store import Store, open_store
from tests.services.mongodb import MongoServer

REQUESTS = 30
QUERIES = (
    "/admin/users/",
    "/admin/users/?limit=1000",
    "/admin/users/?limit=100&after=u05000",
    "/admin/users/?roles=operator&limit=100",
    "/admin/users/?email=nobody@example&limit=100",
    "/admin/users/?disabled=true&roles=operator",
    "/admin/users/?roles=user&namespaces=text&disabled=false&version=2",
    "/admin/operations/",
    "/admin/operations/?limit=1000",
    "/admin/operations/?order=oldest&after=25000&limit=100",
    "/admin/operations/?operator=boss7&limit=100",
    "/admin/operations/?doc_id=u00007&limit=100",
    "/admin/operations/?op_type=none&limit=100",
    "/admin/operations/?outcome=begun",
    "/admin/operations/?operator=boss7&op_type=none",
    "/admin/operations/?op_type=users.update&outcome=begun&address=10.0.0.1",
)


async def fill(store: Store, log: OperationLog, users: int, operations: int) -> None:
    """Put in what is to be listed."""
    for start in range(0, users, 500):
        await asyncio.gather(*(store.add_record(a_user(number)) for number in range(start, min(start + 500, users))))
    for start in range(0, operations, 200):
        numbers = range(start, min(start + 200, operations))
        if type(store).__name__ == "SqliteStore":
            await asyncio.gather(*(log.append(an_operation(number)) for number in numbers))
        else:  # who appends at the same time would only compete for the next number
            for number in numbers:
                await log.append(an_operation(number))


def a_user(number: int) -> User:
    """One of many users."""
    roles = frozenset({"operator"} if number % 100 == 0 else {"user"})
    name = f"u{number:05d}"
    return User(name, bytes(140), roles, 1.0, ("text",), f"{name}@example.org", limits=Limits(unfinished=5))


def an_operation(number: int) -> Operation:
    """One of many entries."""
    ops = {"email": f"u{number}@example.org", "limits": {"unfinished": number}}
    doc_id = f"u{number % 10_000:05d}"
    return Operation(time.time(), f"boss{number % 50}", "10.0.0.1", "users.update", doc_id, ops, "done")


async def measure(name: str, url: str, folder: Path, users: int, operations: int) -> None:
    """Fill a store and ask a server over it."""
    flags = {
        "store": {"url": url},
        "broker": {"url": f"sqlite:///{folder}/queue.db"},
        "server": {"port": 0, "key_file": f"{folder}/key", "admin_secret_file": f"{folder}/secret"},
    }
    settings = load_settings(None, environment={}, flags=flags)
    async with Server(settings) as server, open_store(url) as store:
        log = OperationLog(store, KeyBox.open(settings.server.key_file).derive("operations"))
        began = time.perf_counter()
        await fill(store, log, users, operations)
        print(f"{name}: filled in {time.perf_counter() - began:.1f} s")
        secret = settings.server.admin_secret_file.read_text().strip()
        signer = KeccakAuthenticator(Credentials("admin", secret))
        for path in (*QUERIES, "/admin/operations/verify"):
            rows, times = 0, []
            for _ in range(REQUESTS if "verify" not in path else 3):
                began = time.perf_counter()
                target = f"http://127.0.0.1:{server.port}{path}"
                request = HTTPRequest(target, headers={"Authorization": signer.sign(Request.to("GET", target))})
                answer = await AsyncHTTPClient().fetch(request)
                times.append((time.perf_counter() - began) * 1000)
                result = msgspec.json.decode(answer.body)["result"]
                rows = len(result) if isinstance(result, list) else result["entries"]
            print(f"  {path:72} {rows:6} rows  median {statistics.median(times):7.1f} ms  worst {max(times):7.1f} ms")


def main() -> None:
    """Measure both stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--operations", type=int, default=50_000)
    parser.add_argument("--stores", nargs="*", default=["sqlite", "mongodb"])
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mongo = stack.enter_context(MongoServer())
        for name, url in (("sqlite", f"sqlite:///{folder}/store.db"), ("mongodb", mongo.url("benchmark"))):
            if name in options.stores:
                asyncio.run(measure(name, url, folder, options.users, options.operations))


if __name__ == "__main__":
    main()
