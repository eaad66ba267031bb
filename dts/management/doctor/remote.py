"""`dts-admin doctor`: looks at a deployment from outside and has the server look from inside.

Each check gives findings with a verdict and, unless it is ok, what to do. Nothing here raises because of what is
wrong: that is what it is there to tell.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from dts.auth import WINDOW
from dts.errors import DtsError, RequestRefused
from dts.management.api.resources import Record
from dts.management.client import AdminClient
from dts.management.doctor.causes import broker_advice, store_advice
from dts.management.shell.output import as_text
from dts.management.utils import counted

TIMEOUT = 10.0
"""Seconds that each answer is waited for."""

SKEW_WARNING = 30.0
"""Seconds between the clocks that are worth a word, though signatures are still valid."""

SLOW = 0.5
"""Seconds of a round trip that are worth a word."""

BACKLOG = 10_000
"""Messages in a queue that are worth a word when nobody takes them."""

DEFAULT_CONSUMER_TIMEOUT = 1800.0
"""Seconds that RabbitMQ lets a consumer keep a message, unless it is configured otherwise. AMQP does not tell."""


DAEMONS = {
    "porter": (True, "results are not recorded, so no job ever ends"),
    "timekeeper": (True, "retries, delayed jobs, and what a crash left behind wait for ever"),
    "stethoscope": (False, "heartbeats are not recorded: nobody knows which workers are alive"),
    "logtracer": (False, "what the workers log is not kept"),
}
"""What is the matter when a daemon is missing, and whether that is bad."""

_OVER_LIMIT = 429
_NAMED = 5  # functions, hosts or entries that a finding names


class Verdict(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `advice` is what to do about it."""

    check: str
    verdict: Verdict
    detail: str
    advice: str = ""

    def as_dict(self) -> Record:
        """For a script."""
        return {"check": self.check, "verdict": self.verdict.value, "detail": self.detail, "advice": self.advice}


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, detail)


def warning(check: str, detail: str, advice: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(check, Verdict.WARNING, detail, advice)


def bad(check: str, detail: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, Verdict.BAD, detail, advice)


async def check_from_outside(url: str) -> list[Finding]:
    """Whether the server answers, whether its clock is ours, and what it says about itself; unsigned."""
    http = SimpleAsyncHTTPClient(force_instance=True)
    try:
        began = time.monotonic()
        live = await _fetch(http, f"{url}/health/live")
        took = time.monotonic() - began
        if isinstance(live, str):
            advice = (
                "start it (python -m dts.server -c etc/webapp.toml), or give the right --url. If it ends at once, "
                "doctor -c etc/webapp.toml on its host says why"
            )
            return [bad("server", f"{url} does not answer: {live}", advice)]
        if live.code != 200:
            return [bad("server", f"{url} answers with {live.code}", "is it a DTS server? give the right --url")]
        findings = [judge_latency("server", f"{url} answers", took), judge_clock(live.headers.get("Date"), time.time())]
        return findings + judge_readiness(await _fetch(http, f"{url}/health/ready"))
    finally:
        http.close()


async def check_from_inside(client: AdminClient) -> list[Finding]:
    """Whether the server knows us, and what it finds when it looks around."""
    try:
        user = await client.login()
    except RequestRefused as error:
        if error.status == _OVER_LIMIT:
            return [warning("sign-in", error.message, "try again later, or have the limit raised")]
        return [bad("sign-in", error.message, "check --username and --secret-file, or login; see also the clock")]
    except DtsError as error:
        return [bad("sign-in", error.message, "see what the server says about its store")]
    findings = [ok("sign-in", f"{user['id']} is {as_text('roles', user['roles'])}")]
    try:
        findings += judge_diagnosis(await client.diagnose())
    except RequestRefused as error:
        why = "the server is older than this command" if error.status == 404 else error.message
        findings.append(warning("diagnosis", why, "sign in as an administrator or operator at an up-to-date server"))
    except DtsError as error:
        findings.append(bad("diagnosis", error.message, "see the server's log"))
    return findings + await _check_log(client)


async def _check_log(client: AdminClient) -> list[Finding]:
    try:
        answer = await client.operations.verify()
    except DtsError as error:
        return [warning("operation log", error.message, "sign in as an administrator or operator")]
    if answer["valid"]:
        return [ok("operation log", f"whole, {counted(answer['entries'], 'entry')}")]
    entries = dict.fromkeys(str(fault["seq"]) for fault in answer["faults"] if fault["seq"])
    where = f"broken at entry {', '.join([*entries][:_NAMED])}" if entries else str(answer["faults"][0]["problem"])
    return [bad("operation log", where, "operations verify; restore the store from a backup")]


async def _fetch(http: SimpleAsyncHTTPClient, url: str) -> HTTPResponse | str:
    """An answer whatever its status, or why there is none."""
    request = HTTPRequest(url, connect_timeout=TIMEOUT, request_timeout=TIMEOUT, follow_redirects=False)
    try:
        return await http.fetch(request, raise_error=False)
    except (OSError, HTTPClientError) as error:
        return str(error)


def judge_latency(check: str, what: str, seconds: float) -> Finding:
    """A round trip."""
    text = f"{what} in {1000 * seconds:.0f} ms"
    if seconds > SLOW:
        return warning(check, text, "slow: look at its load, and at the network between")
    return ok(check, text)


def judge_clock(date: str | None, now: float) -> Finding:
    """The server's Date header against our clock; signatures hold within the window only."""
    try:
        skew = now - email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return warning("clock", "the server does not tell the time", "is there a proxy that takes out Date?")
    apart = abs(skew)
    text = f"this machine is {apart:.0f} s {'ahead of' if skew > 0 else 'behind'} the server"
    if apart > WINDOW:
        advice = f"set the clocks (NTP): signatures are valid within {WINDOW} s only, so every request is refused"
        return bad("clock", text, advice)
    if apart > SKEW_WARNING:
        return warning("clock", text, f"set the clocks (NTP): at {WINDOW} s every request is refused")
    return ok("clock", f"within {max(apart, 1):.0f} s of the server's")


def judge_readiness(answer: HTTPResponse | str) -> list[Finding]:
    """What `/health/ready` says of the store and the broker."""
    try:
        if isinstance(answer, str):
            raise ValueError(answer)
        state = msgspec.json.decode(answer.body)["result"]
        store, broker = str(state["store"]), str(state.get("broker", "ok"))  # a starting server has asked none
    except (ValueError, msgspec.MsgspecError, KeyError, TypeError) as error:
        return [bad("ready", f"the server does not tell whether it is ready ({error})", "see the server's log")]
    findings = []
    if store != "ok":
        findings.append(bad("store", store, store_advice(store)))
    if broker != "ok":
        findings.append(bad("broker", broker, broker_advice(broker)))
    if str(state.get("key_file", "ok")) != "ok":
        detail = "the server has another key file than the one that the store was used with"
        findings.append(bad("key file", detail, store_advice(detail)))
    return findings or [ok("ready", "the server reaches its store and its broker")]


def judge_diagnosis(facts: Record) -> list[Finding]:
    """What `GET /admin/diagnosis` says."""
    findings = []
    for name in ("store", "broker"):
        state = facts[name]
        if state["state"] == "ok":
            findings.append(judge_latency(name, f"{state['kind']} answers the server", float(state["latency"])))
        else:
            advice = store_advice if name == "store" else broker_advice
            findings.append(bad(name, str(state["state"]), advice(str(state["state"]))))
    if facts["broker"]["state"] == "ok":
        findings += _judge_queues(facts["queues"])
        findings += _judge_daemons(facts)
    if facts["store"]["state"] == "ok":
        findings += _judge_workers(facts)
        findings += _judge_timeouts(facts)
    return findings


def _judge_queues(queues: list[Mapping[str, Any]]) -> Iterator[Finding]:
    for queue in queues:
        name, problem = str(queue["name"]), str(queue.get("problem") or "")
        if problem:
            advice = "if it has other arguments: stop what uses it, let it run empty, delete it; DTS makes it anew"
            yield bad(name, problem, advice)
            continue
        ready, consumers = int(queue["ready"]), queue["consumers"]
        text = f"{counted(ready, 'message')} waiting" + (
            "" if consumers is None else f", {counted(consumers, 'consumer')}"
        )
        if name == "dts.dead":
            yield (warning(name, text, "timekeeper should take them: see the daemons") if ready else ok(name, text))
        elif consumers == 0 and name.startswith("dts.jobs."):
            advice = "start a worker for this route: python -m dts.worker -c etc/worker.toml"
            yield bad(name, text, advice) if ready else warning(name, text, advice)
        elif ready > BACKLOG:
            yield warning(name, text, "more comes in than goes out: add workers (or a porter, for dts.results)")
        else:
            yield ok(name, text)


def _judge_daemons(facts: Record) -> Iterator[Finding]:
    """Each daemon that nobody answers for; `inside` is told where there is one, to find it again."""
    inside, present = facts["daemons"]["inside"], facts["daemons"]["present"]
    advice = "start it: python -m dts.server.daemons -c etc/daemons.toml; if it runs, see its log"
    for name, (needed, problem) in DAEMONS.items():
        if name not in present:
            yield (bad if needed else warning)(name, f"it does not answer: {problem}", advice)
    if present:
        elsewhere = [name for name in present if name not in inside]
        places = [f"{', '.join(inside)} inside the server"] if inside else []
        places += [f"{', '.join(elsewhere)} elsewhere"] if elsewhere else []
        yield ok("daemons", f"at work: {'; '.join(places)}")


def _judge_workers(facts: Record) -> Iterator[Finding]:
    """Workers by their heartbeats, and the routes that need some."""
    workers, now = facts["workers"], float(facts["time"])
    if childless := workers.get("childless"):
        advice = "see their logs for why no child starts: memory, the number of processes, a folder that is gone"
        yield bad("childless workers", f"{some(childless)}: no child process for a minute, so no job runs", advice)
    yield from _judge_notes(workers.get("notes", ()))
    start = "start one: python -m dts.worker -c etc/worker.toml"
    if not workers["live"] and "stethoscope" not in facts["daemons"]["present"] and facts["broker"]["state"] == "ok":
        yield warning(
            "workers", "whether any is alive is not known without stethoscope", "start stethoscope, see above"
        )
    elif not (workers["live"] or childless or workers.get("stalled")):
        heard = workers["last"]
        text = "no worker was ever heard of" if heard is None else f"the last one was heard of {now - heard:.0f} s ago"
        advice = f"{start}; if one runs, see that it and stethoscope reach this broker, and the clocks"
        yield bad("workers", f"none is alive: {text}", advice)
    elif workers["live"]:
        yield ok("workers", f"{workers['live']} alive on {counted(workers['hosts'], 'host')}")
        for route in facts["routes"]:
            yield _judge_route(route)
    for stalled in workers.get("stalled", ()):
        advice = "it opens its consumers anew by itself; if that is no cure, see its log, then restart it"
        yield bad("workers", str(stalled), advice)
    if workers["live"] and workers["silent"]:
        silent = [f"{each['host']} ({now - each['last']:.0f} s)" for each in workers["silent"]]
        advice = "see why its workers ended; a host that is gone for good is forgotten after [daemons] forget_hosts"
        yield warning("silent hosts", some(silent), advice)
    yield from _judge_clocks(facts)


def _judge_clocks(facts: Record) -> Iterator[Finding]:
    """The clocks of the hosts of workers, and the server's, against the store's: which work goes by the latter."""
    if abs(facts.get("ahead", 0.0)) > SKEW_WARNING:
        advice = "set the clocks (NTP) of the server's host and the store's: times that users name go by the server's"
        yield warning("store clock", f"the server is {_apart(facts['ahead'])} the store", advice)
    off = [each for each in facts["workers"].get("clocks", ()) if abs(each["ahead"]) > SKEW_WARNING]
    if off:
        advice = "set the clocks (NTP) there: jobs run as they should, but `started` in rows and times in logs are off"
        yield warning(
            "host clocks", some([f"{each['host']} is {_apart(each['ahead'])} the store" for each in off]), advice
        )


def _apart(ahead: float) -> str:
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"


def _judge_notes(notes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """What workers say of themselves; one finding for all that say the same."""
    workers: dict[str, list[str]] = {}
    for each in notes:
        workers.setdefault(str(each["note"]), []).append(str(each["worker"]))
    for note, names in workers.items():
        yield warning("worker", f"{some(names)}: {note}", "see docs/security.md for what each role needs")


def _judge_route(route: Mapping[str, Any]) -> Finding:
    name, functions = f"route {route['route']}", some(route["functions"])
    if route["workers"]:
        serve = "serves" if route["workers"] == 1 else "serve"
        return ok(name, f"{counted(route['workers'], 'live worker')} {serve} it")
    if route.get("left"):
        advice = (
            f"start a worker with {route['route']} among its [worker] routes, or have their runs published on the "
            "present one: runs requeue RUN; timekeeper does that by itself after a while"
        )
        return bad(name, f"no live worker serves it, and jobs wait there since before {functions} left it", advice)
    advice = (
        f"start a worker with {route['route']} among its [worker] routes, or give the functions another route: "
        "functions update FUNCTION route=…"
    )
    return bad(name, f"no live worker serves it, so jobs of {functions} wait", advice)


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _judge_timeouts(facts: Record) -> Iterator[Finding]:
    if facts["broker"]["kind"] == "sqlite":
        yield ok("consumer timeout", "the embedded broker has none: it uses leases")
        return
    known = facts["broker"].get("consumer_timeout")
    limit = DEFAULT_CONSUMER_TIMEOUT if known is None else float(known)
    longer = [f"{each['id']} ({each['timeout']:g} s)" for each in facts["timeouts"] if each["timeout"] >= limit]
    source = "RabbitMQ's default; AMQP does not tell another" if known is None else "as the broker says"
    if longer:
        advice = "raise consumer_timeout in rabbitmq.conf above the longest timeout, or lower the functions' timeout"
        yield warning(
            "consumer timeout", f"{limit:g} s ({source}), but {', '.join(longer[:_NAMED])} may take longer", advice
        )
    else:
        yield ok("consumer timeout", f"no function may take {limit:g} s ({source})")
