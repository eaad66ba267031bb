"""Receivers of notices: a real SMTP server (aiosmtpd) and a real webhook receiver, on free ports of the loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, cast

import msgspec
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from tests.services.base import free_port


@dataclass
class MailServer:
    """A mail server. `answers` are given to the next texts in place of 250; `refused` recipients do not exist."""

    port: int = field(default_factory=free_port)
    mails: list[EmailMessage] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    login: tuple[str, str] | None = None
    starttls: ssl.SSLContext | None = None
    on_mail: Callable[[], None] = lambda: None
    _server: asyncio.Server | None = None
    _sessions: list[SMTP] = field(default_factory=list)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.get_running_loop().create_server(self._session, "127.0.0.1", self.port)

    def stop(self) -> None:
        """Listen no longer, as a server that is away, and hang up."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for session in self._sessions:
            if session.transport is not None:
                session.transport.abort()
        self._sessions.clear()

    def _session(self) -> SMTP:
        options: dict[str, Any] = {}
        if self.starttls:
            options |= {"tls_context": self.starttls, "require_starttls": True}
        if self.login:
            options |= {"authenticator": self._check, "auth_required": True, "auth_require_tls": False}
        self._sessions.append(SMTP(self, hostname="localhost", loop=asyncio.get_running_loop(), **options))
        return self._sessions[-1]

    def _check(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        return AuthResult(success=(data.login.decode(), data.password.decode()) == self.login)

    async def handle_RCPT(  # noqa: N802 - the name is aiosmtpd's
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient, or not."""
        if address in self.refused:
            return "550 there is nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        """Take a mail, or not."""
        if self.answers:
            return self.answers.pop(0)
        assert isinstance(envelope.content, bytes)
        self.mails.append(cast(EmailMessage, message_from_bytes(envelope.content, policy=default)))
        self.on_mail()
        return "250 taken"

    @property
    def subjects(self) -> list[str]:
        """The subjects of all mails so far."""
        return [str(mail["Subject"]) for mail in self.mails]


@asynccontextmanager
async def mail_server(**fields: Any) -> AsyncIterator[MailServer]:
    """A mail server that listens."""
    server = MailServer(**fields)
    await server.start()
    try:
        yield server
    finally:
        server.stop()


def a_certificate(folder: Path) -> ssl.SSLContext:
    """What a server of the name localhost speaks TLS with; its certificate, which nobody has signed, is in `ca.pem`."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=9))
    made = made.add_extension(names, critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    (folder / "ca.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


@dataclass
class Webhook:
    """A receiver. `answers` are the statuses of the next answers in place of 204."""

    port: int
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/hook?token=s3cret"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was posted so far."""
        return [msgspec.json.decode(body) for _, body in self.calls]


class _Hook(RequestHandler):
    def initialize(self, webhook: Webhook) -> None:
        self._webhook = webhook

    def post(self) -> None:
        headers = {name.lower(): value for name, value in self.request.headers.get_all()}
        self._webhook.calls.append((headers, self.request.body))
        status = self._webhook.answers.pop(0) if self._webhook.answers else 204
        if status // 100 == 3:
            self.set_header("Location", f"http://127.0.0.1:{self._webhook.port}/elsewhere")
        self.set_status(status)


@asynccontextmanager
async def webhook_receiver() -> AsyncIterator[Webhook]:
    """A receiver of webhooks that listens."""
    sockets = bind_sockets(0, "127.0.0.1")
    webhook = Webhook(sockets[0].getsockname()[1])
    server = HTTPServer(Application([("/.*", _Hook, {"webhook": webhook})], log_function=lambda handler: None))
    server.add_sockets(sockets)
    try:
        yield webhook
    finally:
        server.stop()
        await server.close_all_connections()
