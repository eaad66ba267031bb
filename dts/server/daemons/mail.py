"""Mails to a group of people. Without a mail server in the settings they are log messages instead."""

from __future__ import annotations

import asyncio
import logging
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path

import aiosmtplib

from dts.config import MailSettings
from dts.errors import ConfigError

logger = logging.getLogger(__name__)

_TIMEOUT = 20.0  # seconds for the mail server to take a mail
_PAUSES = (1.0, 5.0, 30.0)  # seconds before each further attempt


class Mailer:
    """Sends plain text to the recipients in the settings. A mail that cannot be sent is logged, and lost."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings
        self._password = _read_password(settings.password_file) if settings.password_file else None

    @property
    def configured(self) -> bool:
        """Whether there is a mail server to send to, and somebody to read it."""
        return bool(self._settings.host and self._settings.to)

    async def send(self, subject: str, text: str) -> bool:
        """Send a mail, trying for a while; whether the mail server took it. Never raises for one that does not."""
        if not self.configured:
            logger.warning("%s\n%s", subject, text)
            return False
        for pause in (*_PAUSES, None):
            try:
                await self._attempt(self._message(subject, text))
            except (aiosmtplib.SMTPException, OSError) as error:
                if pause is None:
                    logger.error("a mail could not be sent (%s): %s\n%s", error, subject, text)
                    return False
                await asyncio.sleep(pause)
            except Exception:
                logger.exception("a mail could not be made or sent: %s\n%s", subject, text)
                return False
            else:
                return True
        return False

    async def _attempt(self, message: EmailMessage) -> None:
        """Send a mail in a task of its own: a cancellation that comes with the server's last answer may get lost in
        there (asyncio.wait_for of Python 3.11 takes the answer), and must not get lost for whoever waits here.
        """
        sending = asyncio.create_task(self._send(message), name="mail")
        try:
            await asyncio.wait([sending])
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        sending.result()

    async def _send(self, message: EmailMessage) -> None:
        settings = self._settings
        await aiosmtplib.send(
            message,
            hostname=settings.host,
            port=settings.port,
            username=settings.username or None,
            password=self._password,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            timeout=_TIMEOUT,
        )

    def _message(self, subject: str, text: str) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._settings.sender
        message["To"] = ", ".join(self._settings.to)
        message["Subject"] = "[DTS] " + " ".join(subject.split())[:200]
        message["Date"] = formatdate(localtime=True)
        message["Message-ID"] = make_msgid(domain=self._settings.sender.rpartition("@")[2] or None)
        message.set_content(text)
        return message


def _read_password(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[mail] password_file {path} cannot be read: {error}") from error
