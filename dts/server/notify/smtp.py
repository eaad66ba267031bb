"""Sends notices by mail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import formatdate
from hashlib import blake2b
from pathlib import Path

import aiosmtplib

from dts.config import MailSettings
from dts.errors import ConfigError
from dts.server.notify.errors import NotDelivered, Undeliverable
from dts.server.notify.notice import Notice

_TIMEOUT = 20.0  # seconds for each answer of the mail server

_PERMANENT = 500
"""Replies from here on say that another attempt will be refused as well (RFC 5321, 4.2.1)."""


class SmtpSender:
    """Sends one mail at a time to one recipient through the mail server in the settings."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings
        self._password = _read_password(settings.password_file) if settings.password_file else None

    async def send(self, notice: Notice, address: str, before_data: Callable[[], Awaitable[None]]) -> None:
        """Send a notice to an address. `before_data` is awaited when the server has accepted sender and recipient,
        before it gets the text: until then nothing can have been delivered.

        Raises:
            NotDelivered: the server is away, or asks to try again later.
            Undeliverable: the server refuses the recipient or the mail for good, or no mail can be made of them.
        """
        try:
            body = message_of(notice, address, self._settings.sender).as_bytes(policy=SMTP_POLICY)
            body.decode("ascii")
            address.encode("ascii")
        except (ValueError, LookupError) as error:
            raise Undeliverable(f"no mail can be made of it: {error}") from error
        settings = self._settings
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            username=settings.username or None,
            password=self._password,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            cert_bundle=str(settings.ca_file) if settings.ca_file else None,
            timeout=_TIMEOUT,
        )
        try:
            await client.connect()
            await client.mail(settings.sender)
            await client.rcpt(address)
            await before_data()
            await client.data(body)
        except (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError) as error:
            refused = Undeliverable if error.code >= _PERMANENT else NotDelivered
            raise refused(f"the mail server answered {error.code} {error.message}"[:500]) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            why = f"the mail server {settings.host}:{settings.port}: {error or type(error).__name__}"
            raise NotDelivered(why[:500]) from error
        finally:
            client.close()


def message_of(notice: Notice, address: str, sender: str) -> EmailMessage:
    """A notice as a mail in plain text and HTML. Its Message-ID follows from the notice and the address, so that a mail
    server which gets it twice can know it.

    Raises:
        ValueError: an address is none.
    """
    message = EmailMessage()
    message["From"] = sender
    message["To"] = address
    message["Subject"] = notice.subject
    message["Date"] = formatdate(localtime=True)
    domain = sender.rpartition("@")[2] or "localhost"
    digest = blake2b(f"{notice.id}\n{address}".encode(errors="surrogatepass"), digest_size=16).hexdigest()
    message["Message-ID"] = f"<{digest}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(notice.as_text(), cte="quoted-printable")
    message.add_alternative(notice.as_html(), subtype="html", cte="quoted-printable")
    return message


def _read_password(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[mail] password_file {path} cannot be read: {error}") from error
