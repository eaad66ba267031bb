"""`runs …`, `jobs …`, `dead …`, `hosts` and `logs`: what the fleet works on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from dts.errors import InvalidInput
from dts.management.api.resources import Jobs, Record, Runs
from dts.management.shell.arguments import LIMIT, Arguments, Flag
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, limit_of
from dts.management.shell.session import Session
from dts.management.utils import counted

OWN = Flag("--own", "your own, for which you need no role")
SINGLES = Flag("--all", "also those of single jobs, one for each POST /jobs/")
ALL = Flag("--all", "every one there is")
WHERE = Flag("--where", "what to replay: id, queue, reason, function or run, several by commas", "FIELD=VALUE,…")


FAILED = Flag("--failed", "those that failed; nothing else can be run again")
VERSION = Flag("--version", "the version of the function, by the first digits of its hash", "HASH")


def _percent(value: float) -> str:
    return f"{value:.0f} %"


def _hundredths(value: float) -> str:
    return f"{value:.2f}"


_RUNS = (
    Column("id", "run"),
    Column("state"),
    Column("done", right=True),
    Column("failed", right=True),
    Column("total", right=True),
    Column("percent", "%", right=True),
    Column("function", id=True),
    Column("user", id=True),
    Column("age"),
    Column("single"),
)
_DEAD = (
    Column("id", "letter"),
    Column("died"),
    Column("function"),
    Column("run", id=True),
    Column("queue"),
    Column("reason"),
    Column("size", right=True),
)
_HOSTS = (
    Column("host"),
    Column("worker"),
    Column("state"),
    Column("time", "seen"),
    Column("cpu", show=_percent, right=True),
    Column("memory", show=_percent, right=True),
    Column("disk", show=_percent, right=True),
    Column("load", show=_hundredths, right=True),
    Column("jobs_running", "jobs", right=True),
)
_LOGS = (
    Column("time"),
    Column("host"),
    Column("source"),
    Column("level", right=True),
    Column("logger"),
    Column("message"),
    Column("job", id=True),
)
_LOG_FIELDS = (
    Field("host", Kind.TEXT, "from which host"),
    Field("source", Kind.TEXT, "from which file or process"),
    Field("logger", Kind.TEXT, "by which logger"),
    Field("job", Kind.TEXT, "about which job"),
    Field("level", Kind.INTEGER, "the lowest level: 30 is a warning, 40 an error"),
)
_LETTER_FIELDS = tuple(
    Field(name, Kind.TEXT, about)
    for name, about in (
        ("queue", "the queue that it came from"),
        ("reason", "why it is dead"),
        ("function", "the function of its jobs"),
        ("run", "the run of its jobs"),
    )
)


async def _runs(session: Session, arguments: Arguments) -> Runs:
    client = await session.client()
    return client.own_runs if arguments.has(OWN) else client.runs


async def _jobs(session: Session, arguments: Arguments) -> Jobs:
    client = await session.client()
    return client.own_jobs if arguments.has(OWN) else client.jobs


@command(
    "runs list",
    "[user=NAME]",
    fields=(Field("user", Kind.TEXT, "whose runs", ids="users"),),
    flags=(LIMIT, OWN, SINGLES),
    examples=("runs", "runs list user=alice --limit 10", "runs list --own --all"),
)
async def list_runs(session: Session, arguments: Arguments) -> None:
    """List runs of files, newest first: of everybody, of one user, or your own."""
    output = session.output(arguments)
    limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
    everything = True if arguments.has(SINGLES) else None
    pages = (await _runs(session, arguments)).pages(limit=limit, all=everything, counts=True, **arguments.values)
    if not output.as_json:
        pages = _with_progress(pages)
    hidden = {"user": arguments.has(OWN), "single": not everything}
    columns = [column for column in _RUNS if not hidden.get(column.field)]
    await output.rows(pages, columns, limit=limit, what="runs")


async def _with_progress(pages: AsyncIterator[list[Record]]) -> AsyncIterator[list[Record]]:
    """Runs with what is told of them at a glance: how much is done, and how old they are."""
    async for page in pages:
        yield [_at_a_glance(run) for run in page]


def _at_a_glance(run: Record) -> Record:
    counts = run["counts"]
    done = counts["succeeded"] + counts["failed"] + counts["cancelled"]
    percent = f"{100 * done // counts['total']}" if counts["total"] else "–"
    state = "paused" if run["paused"] else "finished" if "finished_at" in run else run["state"]
    told = {"done": done, "failed": counts["failed"], "total": counts["total"], "percent": percent}
    return {**run, **told, "state": state, "age": max(0.0, time.time() - run["created"])}


@command("runs get", "RUN", words=(1, 1), flags=(OWN,), examples=("runs get 01jd3v…",), ids="runs")
async def get_run(session: Session, arguments: Arguments) -> None:
    """Show a run: its state and how many of its jobs are in which."""
    session.output(arguments).record(await (await _runs(session, arguments)).get(arguments.word(0)))


@command("runs cancel", "RUN", words=(1, 1), flags=(OWN,), examples=("runs cancel 01jd3v… --yes",), ids="runs")
async def cancel_run(session: Session, arguments: Arguments) -> None:
    """Cancel a run: what has not ended is cancelled, what has ended keeps its result. Asks first."""
    run_id = arguments.word(0)
    runs = await _runs(session, arguments)
    await session.confirm(arguments, f"Cancel the run {run_id}?")
    _show(session, arguments, f"run {run_id} cancelled", await runs.cancel(run_id))


@command("runs requeue", "RUN", words=(1, 1), examples=("runs requeue 01jd3v… --yes",), ids="runs")
async def requeue_run(session: Session, arguments: Arguments) -> None:
    """Send a run's unfinished jobs to the workers again, where the broker has lost them. Asks first."""
    run_id = arguments.word(0)
    runs = (await session.client()).runs
    await session.confirm(
        arguments, f"Publish what has not ended of the run {run_id} again? What is not lost may run twice."
    )
    done = await runs.requeue(run_id)
    _show(session, arguments, f"{counted(done['jobs'], 'job')} of run {run_id} published again", done)


@command(
    "runs retry",
    "RUN",
    words=(1, 1),
    flags=(FAILED, VERSION),
    examples=("runs retry 01jd3v… --failed", "runs retry 01jd3v… --version 3f2a --yes"),
    ids="runs",
)
async def retry_run(session: Session, arguments: Arguments) -> None:
    """Run what failed in a run again, in a new run of the same user; the run keeps what it has. Asks first."""
    run_id = arguments.word(0)
    runs = (await session.client()).runs
    await session.confirm(arguments, f"Run the failed jobs of the run {run_id} again?")
    done = await runs.retry(run_id, version=arguments.flags.get(VERSION.name, ""))
    _show(session, arguments, f"{counted(done['jobs'], 'job')} of run {run_id} in the new run {done['run']}", done)


@command("jobs get", "JOB", words=(1, 1), flags=(OWN,), examples=("jobs get 01jd3v…-0",))
async def get_job(session: Session, arguments: Arguments) -> None:
    """Show a job: its state and, once it has ended, its result or its error."""
    session.output(arguments).record(await (await _jobs(session, arguments)).get(arguments.word(0)))


@command("jobs cancel", "JOB", words=(1, 1), flags=(OWN,), examples=("jobs cancel 01jd3v…-0 --yes",))
async def cancel_job(session: Session, arguments: Arguments) -> None:
    """Cancel a job that has not ended. Asks first."""
    job_id = arguments.word(0)
    jobs = await _jobs(session, arguments)
    await session.confirm(arguments, f"Cancel the job {job_id}?")
    _show(session, arguments, f"job {job_id} cancelled", await jobs.cancel(job_id))


@command(
    "dead list",
    "[FIELD=VALUE …]",
    fields=_LETTER_FIELDS,
    flags=(LIMIT,),
    examples=("dead list", "dead list function=text/upper"),
)
async def list_dead(session: Session, arguments: Arguments) -> None:
    """List dead letters: messages that nobody could handle, with why."""
    output = session.output(arguments)
    limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
    pages = (await session.client()).dead.pages(limit=limit, **arguments.values)
    await output.rows(pages, _DEAD, limit=limit, what="dead letters")


@command(
    "dead replay",
    "[ID] [--where FIELD=VALUE,… | --all]",
    words=(0, 1),
    flags=(WHERE, ALL),
    examples=("dead replay --where function=text/upper", "dead replay --all --yes"),
    ids="dead",
)
async def replay(session: Session, arguments: Arguments) -> int:
    """Give dead letters another chance: one, those that match, or all. Asks first.

    Their jobs have ended as failed, and a job never ends twice: a replay makes new jobs in a new run of the same user.
    Exit status 1 when some could not be replayed.
    """
    where = _conditions(arguments)
    client = await session.client()
    which = "all dead letters" if not where else "dead letters with " + ", ".join(f"{k}={v}" for k, v in where.items())
    await session.confirm(arguments, f"Replay {which}?")
    answer = await client.dead.replay(everything=not where, **where)
    output = session.output(arguments)
    if output.as_json:
        output.record(answer)
    else:
        runs = ", ".join(answer["runs"])
        letters, jobs = counted(answer["replayed"], "letter"), counted(answer["jobs"], "job")
        output.say(
            f"{letters} replayed, {jobs}"
            + (f", {'run' if len(answer['runs']) == 1 else 'runs'} {runs}" if runs else "")
        )
        for skipped in answer["skipped"]:
            output.say(f"  not {skipped['id']}: {skipped['problem']}")
    return 1 if answer["skipped"] else 0


def _conditions(arguments: Arguments) -> dict[str, str]:
    """What to replay; empty is everything, which has to be said."""
    where = {"id": arguments.word(0)} if arguments.words else {}
    for item in arguments.flags.get(WHERE.name, "").split(","):
        name, equals, value = item.partition("=")
        if not item:
            continue
        if not equals or name not in ("id", *(each.name for each in _LETTER_FIELDS)):
            raise InvalidInput(f"--where takes id, queue, reason, function or run (function=ns/f), not {item[:60]}")
        where[name] = value
    if bool(where) == arguments.has(ALL):
        raise InvalidInput("say what to replay: an ID, --where FIELD=VALUE, or --all")
    return where


@command(
    "hosts", "[host=NAME]", fields=(Field("host", Kind.TEXT, "one host"),), examples=("hosts", "hosts host=worker1")
)
async def hosts(session: Session, arguments: Arguments) -> None:
    """List the hosts that workers run on, as their heartbeats tell."""
    output = session.output(arguments)
    pages = (await session.client()).hosts.pages(**arguments.values)
    await output.rows(pages, _HOSTS, limit=None, what="hosts")


@command(
    "logs",
    "[FIELD=VALUE …]",
    fields=_LOG_FIELDS,
    flags=(LIMIT,),
    examples=("logs", "logs level=40 host=worker1 --limit 20"),
)
async def logs(session: Session, arguments: Arguments) -> None:
    """List log records of the workers, newest first."""
    output = session.output(arguments)
    limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
    pages = (await session.client()).logs.pages(limit=limit, **arguments.values)
    await output.rows(pages, _LOGS, limit=limit, what="log records")


def _show(session: Session, arguments: Arguments, sentence: str, record: object) -> None:
    output = session.output(arguments)
    output.say(sentence)
    if output.as_json:
        output.record(record)


COMMANDS = (list_runs, get_run, cancel_run, requeue_run, retry_run, get_job, cancel_job, list_dead, replay, hosts, logs)
