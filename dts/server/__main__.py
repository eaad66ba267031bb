"""`python -m dts.server`: the REST server."""

from __future__ import annotations

import sys

from dts.runtime.options import load_process_settings, process_parser
from dts.runtime.process import EXIT_FAILED, EXIT_OK, Shutdown, run
from dts.server.app import Server
from dts.server.check import check

EXAMPLES = """\
examples:
  python -m dts.server -c etc/webapp.toml
  python -m dts.server -c etc/webapp.toml --check
  python -m dts.server -c etc/webapp.toml --dev --port 8080
  DTS_STORE_URL=mongodb://db/dts DTS_BROKER_URL=amqp://mq python -m dts.server -c etc/webapp.toml
"""


def main() -> int:
    """Run the server until it is told to end."""
    parser = process_parser("python -m dts.server", "The DTS server: takes jobs, hands out results.", EXAMPLES)
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on; 0 for any (default 8000)")
    parser.add_argument("--check", action="store_true", help="say whether it could work, part by part, and end")
    options = parser.parse_args()

    async def serve(shutdown: Shutdown) -> int:
        settings = load_process_settings(options, {"server": {"host": options.host, "port": options.port}})
        if options.check:
            return await check(settings)
        async with Server(settings) as server:
            await shutdown.wait(server.failed)
            return EXIT_FAILED if server.failed.is_set() else EXIT_OK

    return run(serve)


if __name__ == "__main__":
    sys.exit(main())
