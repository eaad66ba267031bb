"""`doctor`: is everything as it should be?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dts.errors import ConfigError, DtsError
from dts.management.client import AdminClient
from dts.management.doctor.local import (
    BUNDLED,
    check_configuration,
    check_functions,
    check_key_files,
    check_modules,
    check_secret_files,
    check_start,
)
from dts.management.doctor.remote import Finding, Verdict, check_from_inside, check_from_outside, warning
from dts.management.shell.arguments import Arguments, Flag
from dts.management.shell.grammar import command
from dts.management.shell.output import Column
from dts.management.shell.session import Session
from dts.runtime.process import EXIT_FAILED, EXIT_OK

CONFIG = Flag("--config", "a process's configuration on this machine, to be checked as well", "FILE", short="-c")

_COLUMNS = (Column("check"), Column("verdict"), Column("detail"), Column("advice", "what to do"))


@command("doctor", "[-c FILE]", flags=(CONFIG,), examples=("doctor", "doctor -c etc/worker.toml", "doctor --json"))
async def doctor(session: Session, arguments: Arguments) -> int:
    """Check server, clocks, store, broker, queues, daemons, functions and credentials. Exit status 1 if one is bad.

    The server is asked for what only it can see. With -c the configuration of a server or worker on this machine is
    checked, too: its keys, the files that it names, its functions directory.
    """
    config = arguments.flags.get(CONFIG.name)
    findings, folder = _check_this_machine(session, config)
    outside = await check_from_outside(session.options.url.rstrip("/"))
    findings += outside
    if config is not None and any(finding.verdict is Verdict.BAD for finding in outside):
        found = await check_start(config)
        seen = {finding.check for finding in found}
        findings = [finding for finding in findings if finding.check not in seen] + found
    if len(outside) > 1:  # it answered
        inside = await _check_inside(session, folder if config is not None else None)
        seen = {finding.check for finding in inside}
        findings = [finding for finding in findings if finding.check not in seen] + inside
    output = session.output(arguments)
    output.table([finding.as_dict() for finding in findings], _COLUMNS)
    counts = Counter(finding.verdict for finding in findings)
    output.say("\n" + ", ".join(f"{verdict.value}: {counts[verdict]}" for verdict in Verdict))
    return EXIT_FAILED if counts[Verdict.BAD] else EXIT_OK


def _check_this_machine(session: Session, config: str | None) -> tuple[list[Finding], Path]:
    """What is found here, and the functions directory."""
    findings = check_secret_files(session.options.secret_file)
    folder = BUNDLED
    if config is not None:
        found, settings = check_configuration(config)
        findings += found
        folder = Path(settings.worker.functions) if settings and settings.worker.functions else BUNDLED
    else:
        findings += check_key_files()
    return findings + check_functions(folder), folder


async def _check_inside(session: Session, folder: Path | None) -> list[Finding]:
    """What the server finds; and whether all functions are in the directory that workers have, if that is known."""
    try:
        client = session.new_client(await session.credentials(), give_up_after=0.0, notify=lambda _: None)
    except ConfigError as error:
        return [warning("sign-in", error.message.partition(". ")[0], "sign in, so that the server can be asked")]
    try:
        findings = await check_from_inside(client)
        if folder is not None:
            findings += check_modules(await _never_run(client), folder)
        return findings
    finally:
        client.close()


async def _never_run(client: AdminClient) -> list[str]:
    """Names of enabled functions of which no worker tells that it has run one; none if we may not know."""
    try:
        run = {
            name async for host in client.hosts.list() for name, counts in host["functions"].items() if counts["done"]
        }
        return [each["id"] async for each in client.functions.list(enabled=True) if each["id"] not in run]
    except DtsError:  # why not is among the findings
        return []


COMMANDS = (doctor,)
