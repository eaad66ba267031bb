"""Signed HTTP to the server: one place where requests are sent, repeated and their failures named.

What can be tried again (no connection, no answer in time, 5xx, 429) is tried again here for as long as it takes, so
the callers only see answers and refusals. Each try is signed anew, since a nonce serves once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from dts.auth import WINDOW, Credentials, KeccakAuthenticator, Request, signed_host
from dts.client import notices
from dts.client.answers import (
    FIRST_DELAY,
    Answer,
    Failure,
    clock_hint,
    clock_skew,
    error_in_words,
    parse_error,
    parse_retry_after,
)
from dts.client.connections import ConnectError, Connections, Response, StaleConnection
from dts.client.notices import Notices
from dts.client.proxies import ProxyError, proxy_for
from dts.client.run.pace import Turn
from dts.client.server_url import is_local, split_url
from dts.client.traffic import Traffic
from dts.errors import ConfigError, RequestRefused, ServerUnavailable
from dts.runtime.backoff import Backoff
from dts.runtime.tasks import end_tasks
from dts.version import __version__

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
REQUEST_TIMEOUT = 120.0
"""Seconds in which no byte of a request or its answer moves, before the try is given up."""

MAX_ANSWER = 256 * 1024 * 1024  # bytes; a page of results is far smaller, a single result need not be

Turns = Callable[[], AbstractAsyncContextManager[Turn]]
"""Waits for the turn of an upload, such as `pace.turn` does."""

_MAX_DELAY = 5.0  # seconds
_LOOK_INTERVAL = 1.0  # seconds between two looks at a request
_SHORTEST_TRY = 1.0  # seconds that a server may take to answer, however soon it is given up
_TRY_AGAIN = re.compile(r"[:;,]? try again in \S+ s$")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_OVER_LIMIT = 429
_REPEATABLE_STATUS = frozenset({408, _OVER_LIMIT})  # and 5xx
_HOPELESS_STATUS = frozenset({501, 505})  # what answers like that never will do what a DTS server does
_NOT_ACCEPTED_STATUS = frozenset({_OVER_LIMIT})  # 503 may come of a store that did what it was asked to, but too late


@dataclass(frozen=True, slots=True)
class _Call:
    """A request as every try makes it; `path` and `query` are as on the wire."""

    method: str
    path: str
    query: str
    body: bytes | None
    headers: Mapping[str, str]
    wait: float
    repeatable: bool
    turn: Turns | None
    on_data: Callable[[bytes], None] | None = None


class Transport:
    """Sends signed requests to one server.

    `server_url` is http or https, with or without a path prefix. Certificates are checked against the system's
    authorities, or those in the file that SSL_CERT_FILE names. `give_up_after` is how many seconds a request is
    tried again; None is for ever, 0 for one try that may take its time. `notify` gets a sentence when the
    server goes away and when it is back, each minute while a limit holds requests up, and once a minute at most when
    the server is silent, since a busy machine is slow again and again. A Transport belongs to the
    event loop that it is first used in.

    Raises:
        ConfigError: the URL is not one of a server.
    """

    def __init__(
        self,
        server_url: str,
        credentials: Credentials,
        *,
        max_clients: int = 10,
        give_up_after: float | None = None,
        notify: Callable[[str], None] = logger.warning,
        cacert: str | None = None,
    ) -> None:
        self.server_url = server_url.rstrip("/")
        self._origin, self._prefix = split_url(server_url)
        self._host = signed_host(self._origin.partition("://")[2])
        self._authenticator = KeccakAuthenticator(credentials)
        self._max_clients = max_clients
        self._give_up_after = give_up_after
        self._notices = Notices(self.server_url, notify)
        self._proxy = proxy_for(self._origin)
        self._tls = _tls_context(cacert) if self._origin.startswith("https:") else None
        self._clock_skew = 0.0
        self._http: Connections | None = None

    @property
    def held_by(self) -> str:
        """The limit that a request waits for now, as the server puts it; empty when none does."""
        return self._notices.held_by

    @property
    def local(self) -> bool:
        """Whether the URL says that the server is on this machine."""
        return is_local(self._origin)

    def close(self) -> None:
        """Close connections; requests under way are dropped."""
        if self._http is not None:
            self._http.close()
            self._http = None

    async def call(
        self,
        method: str,
        path: str,
        params: object = None,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        **how: Any,
    ) -> Any:
        """Make a JSON request with `params`, if any, and return the answer's `result`. `how` goes to `request`.

        Raises:
            RequestRefused: the server refused it, or its answer is not DTS's.
            ServerUnavailable: it was given up.
        """
        body = None if params is None else msgspec.json.encode({"params": params})
        fields = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            fields["Content-Type"] = "application/json"
        answer = await self.request(method, path, query=query, body=body, headers=fields, **how)
        try:
            return msgspec.json.decode(answer.body)["result"]
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise RequestRefused(
                f"{self.server_url} answered {method} {path} with something else than DTS does: is it a DTS server?",
                status=answer.status,
            ) from error

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        wait: float = 0.0,
        give_up_after: float | None = None,
        repeatable: bool = True,
        turn: Turns | None = None,
        on_data: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Make a request, again and again until the server has answered it.

        `timeout` (REQUEST_TIMEOUT) is how many seconds of a try may pass in which no byte moves, and `wait` seconds
        more: for so long the server was asked to hold its answer back. With `repeatable` False a request is only tried
        again when the server has certainly not acted on it. `turn` says when the body may be uploaded, and learns how
        it went. `on_data` takes the body of a success as it comes; such a request is not repeatable.

        Raises:
            RequestRefused: the server answered 3xx or 4xx; 429 only if waiting would take longer than may be waited.
            ServerUnavailable: it was given up after `give_up_after` seconds, here or in the constructor; or it is
                not repeatable and the server may have acted on it.
        """
        raw_query = urlencode(query) if query else ""
        call = _Call(
            method, self._prefix + quote(path), raw_query, body, headers or {}, wait, repeatable, turn, on_data
        )
        limit = self._give_up_after if give_up_after is None else give_up_after
        try:
            return await self._until_answered(call, REQUEST_TIMEOUT if timeout is None else timeout, limit)
        finally:
            self._notices.release(id(call))

    async def _until_answered(self, call: _Call, timeout: float, limit: float | None) -> Answer:
        away_since: float | None = None
        backoff = Backoff(FIRST_DELAY, _MAX_DELAY)
        while True:
            began = time.monotonic()
            left = limit - (0.0 if away_since is None else began - away_since) if limit else timeout
            outcome = await self._try_in_turn(call, min(timeout, max(left, _SHORTEST_TRY)))
            if isinstance(outcome, Answer):
                self._notices.is_back()
                return outcome
            if outcome.stale and (call.repeatable or not outcome.taken):
                continue
            if not call.repeatable and outcome.taken:
                raise ServerUnavailable(f"{outcome.reason}; the request may have been accepted or not")
            if away_since is None:
                away_since = outcome.away_since(began, call.wait)
            own = backoff.next_pause()
            pause = own if outcome.retry_after is None else outcome.retry_after
            if limit is not None:
                left = limit - (time.monotonic() - away_since)
                self._check_patience(outcome, pause, left, limit)
                pause = min(pause, left)
            self._notices.tell(id(call), outcome)
            await asyncio.sleep(pause)

    def _check_patience(self, failure: Failure, pause: float, left: float, limit: float) -> None:
        """Give up when there is no time left, or when a limit is certain to hold for longer than that.

        Raises:
            RequestRefused: the limit.
            ServerUnavailable: anything else.
        """
        if failure.over and pause > left:
            message = f"{failure.over}: try again in {math.ceil(pause)} s"
            raise RequestRefused(message, status=_OVER_LIMIT, code=failure.code)
        if left <= 0:
            raise ServerUnavailable(f"{self._notices.describe(failure)}; gave up after {limit:g} s")

    async def _try_in_turn(self, call: _Call, timeout: float) -> Answer | Failure:
        """Try a request when it is its turn."""
        async with nullcontext(None) if call.turn is None else call.turn() as upload:
            return await self._race(call, timeout, upload)

    async def _race(self, call: _Call, timeout: float, upload: Turn | None) -> Answer | Failure:
        """Try a request; when nothing moves, over a new connection, too. The first answer counts."""
        still = asyncio.get_running_loop().create_future()
        tries = [asyncio.create_task(self._try(call, timeout, upload, still))]
        try:
            if call.repeatable:
                await asyncio.wait([*tries, still], return_when=asyncio.FIRST_COMPLETED)
                if not tries[0].done():
                    logger.info("%s %s is repeated over a new connection", call.method, call.path)
                    tries.append(asyncio.create_task(self._try(call, timeout, upload, still, fresh=True)))
            return await _first_answer(tries)
        finally:
            await end_tasks(tries)

    async def _try(
        self, call: _Call, timeout: float, upload: Turn | None, still: asyncio.Future[None], *, fresh: bool = False
    ) -> Answer | Failure:
        """Make a request once; `still` is done when nothing has moved for a while."""
        traffic = Traffic(
            call.wait,
            interval=min(_LOOK_INTERVAL, notices.PATIENCE, notices.RACE_AFTER),
            on_look=lambda traffic: self._notices.look_at(traffic, still),
            on_pause=self._notices.stood_still,
        )
        body = b"" if call.body is None and call.method in _WITH_BODY else call.body
        target = f"{call.path}{'?' if call.query else ''}{call.query}"
        head = Request(call.method, self._host, call.path.removeprefix(self._prefix), call.query, call.headers)
        signature = self._authenticator.sign(head, body or b"", now=time.time() + self._clock_skew)
        headers = {**call.headers, "Authorization": signature, "User-Agent": f"dts-client/{__version__}"}
        try:
            response = await self._connections().fetch(
                call.method,
                target,
                headers,
                body,
                connect_timeout=CONNECT_TIMEOUT,
                timeout=timeout,
                traffic=traffic,
                fresh=fresh,
                on_data=call.on_data,
            )
        except OSError as error:
            failure = self._on_error(error)
            if upload is not None and failure.taken and not failure.stale:
                upload.stalled()
            return failure
        self._notices.heard()
        if upload is not None:
            upload.answered(traffic.seconds)
        return self._on_response(response)

    def _connections(self) -> Connections:
        if self._http is None:
            self._http = Connections(
                self._origin, tls=self._tls, most=self._max_clients, max_answer=MAX_ANSWER, proxy=self._proxy
            )
        return self._http

    def _on_error(self, error: OSError) -> Failure:
        if isinstance(error, ssl.SSLCertVerificationError):
            raise RequestRefused(
                f"the certificate of {self.server_url} is not trusted: {error.verify_message}; "
                "set SSL_CERT_FILE to a file with the authority that signed it",
                status=0,
                code="certificate",
            ) from error
        if isinstance(error, ProxyError) and 400 <= error.status < 500:
            raise RequestRefused(str(error), status=error.status, code="proxy") from error
        return Failure(
            str(error) if isinstance(error, ProxyError) else error_in_words(error),
            taken=not isinstance(error, (ConnectError, ProxyError)),
            silent=isinstance(error, TimeoutError),
            stale=isinstance(error, StaleConnection),
        )

    def _on_response(self, response: Response) -> Answer | Failure:
        status = response.status
        if 200 <= status < 300:
            return Answer(status, response.body, response.seconds)
        code, message = parse_error(response)
        if status in _HOPELESS_STATUS:
            message = f"{self.server_url} answered with {message}: is it a DTS server?"
            raise RequestRefused(message, status=status, code=code)
        if status >= 500 or status in _REPEATABLE_STATUS:
            return Failure(
                f"{status} {message}",
                retry_after=parse_retry_after(response.headers.get("Retry-After")),
                reached=True,
                taken=status not in _NOT_ACCEPTED_STATUS,
                over=_TRY_AGAIN.sub("", message) if status == _OVER_LIMIT else "",
                code=code,
            )
        if 300 <= status < 400:
            message = f"{self.server_url} redirects to {response.headers.get('Location')}: give that URL"
        if status == 401 and self._correct_clock(response.headers.get("Date")):
            return Failure(message, taken=False, stale=True)
        if status == 407 and self._proxy is not None:
            message = self._proxy.refusal(status, response.reason)
        if status == 401:
            message += f" User {self._authenticator.user_id}: check name and secret"
            message += clock_hint(response.headers.get("Date"))
        raise RequestRefused(message, status=status, code=code)

    def _correct_clock(self, date: str | None) -> bool:
        """Sign by the server's clock if this machine's differs so much that no signature is valid; whether it did."""
        skew = clock_skew(date)
        if abs(skew - self._clock_skew) <= WINDOW / 2 or self._clock_skew:
            return False
        self._clock_skew = skew
        by = f"{abs(skew):.0f} s"
        self._notices.notify(f"this machine's clock differs from the server's by {by}: signing by the server's")
        return True


async def _first_answer(tries: list[asyncio.Task[Answer | Failure]]) -> Answer | Failure:
    """What the first of some tries of a request came to that was answered, else how the last one failed.

    Raises:
        RequestRefused: as the first one did.
    """
    pending = set(tries)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        outcomes = [each.result() for each in done]
        answers = [each for each in outcomes if isinstance(each, Answer)]
        if answers or not pending:
            return answers[0] if answers else outcomes[-1]


def _tls_context(cacert: str | None) -> ssl.SSLContext:
    """Checks certificates against the system's authorities, or those in the file `cacert`.

    Raises:
        ConfigError: the file cannot be read, or has none.
    """
    try:
        return ssl.create_default_context(cafile=cacert)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot read authorities from {cacert}: {error.strerror or error}") from error
