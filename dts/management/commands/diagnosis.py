"""`doctor`: is everything as it should be?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dts.errors import ConfigError
from dts.management.doctor import Finding, Verdict, check_from_inside, check_from_outside, warning
from dts.management.doctor_local import BUNDLED, check_configuration, check_functions, check_secret_files
from dts.management.grammar import Arguments, Flag, command
from dts.management.output import Column
from dts.runtime.process import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from dts.management.session import Session

CONFIG = Flag("--config", "a process's configuration on this machine, to be checked as well", "FILE", short="-c")

_COLUMNS = (Column("check"), Column("verdict"), Column("detail"), Column("advice", "what to do"))


@command("doctor", "[-c FILE]", flags=(CONFIG,), examples=("doctor", "doctor -c etc/worker.toml", "doctor --json"))
async def doctor(session: Session, arguments: Arguments) -> int:
    """Check server, clocks, store, broker, queues, daemons, functions and credentials. Exit status 1 if one is bad.

    The server is asked for what only it can see. With -c the configuration of a server or worker on this machine is
    checked, too: its keys, the files that it names, its functions directory.
    """
    findings = _check_this_machine(session, arguments.flags.get(CONFIG.name))
    outside = await check_from_outside(session.options.url.rstrip("/"))
    findings += outside
    if len(outside) > 1:  # it answered
        inside = await _check_inside(session)
        seen = {finding.check for finding in inside}
        findings = [finding for finding in findings if finding.check not in seen] + inside
    output = session.output(arguments)
    output.table([finding.as_dict() for finding in findings], _COLUMNS)
    counts = Counter(finding.verdict for finding in findings)
    output.say("\n" + ", ".join(f"{verdict.value}: {counts[verdict]}" for verdict in Verdict))
    return EXIT_FAILED if counts[Verdict.BAD] else EXIT_OK


def _check_this_machine(session: Session, config: str | None) -> list[Finding]:
    findings = check_secret_files(session.options.secret_file)
    folder = BUNDLED
    if config is not None:
        found, settings = check_configuration(config)
        findings += found
        folder = Path(settings.worker.functions) if settings and settings.worker.functions else BUNDLED
    return findings + check_functions(folder)


async def _check_inside(session: Session) -> list[Finding]:
    try:
        client = session.new_client(await session.credentials(), give_up_after=0.0, notify=lambda _: None)
    except ConfigError as error:
        return [warning("sign-in", error.message.partition(". ")[0], "sign in, so that the server can be asked")]
    try:
        return await check_from_inside(client)
    finally:
        client.close()


COMMANDS = (doctor,)
