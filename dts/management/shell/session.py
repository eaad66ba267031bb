"""What the commands of one shell share: who is signed in where, and how to ask and to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from dts.auth import Credentials
from dts.client import load_credentials
from dts.errors import ClientError, CredentialsMissing
from dts.management.client import AdminClient
from dts.management.shell.arguments import JSON, YES, Arguments
from dts.management.shell.output import Output, note
from dts.management.shell.prompts import Interrupted, Prompts
from dts.model import check_user_id

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said before the command."""

    url: str = DEFAULT_URL
    username: str | None = None
    secret_file: str | None = None
    as_json: bool = False
    yes: bool = False
    insecure: bool = False


class Session:
    """One shell, from start to end. It signs in when a command first needs it."""

    def __init__(self, options: Options, prompts: Prompts, render_help: Callable[[Sequence[str]], str]) -> None:
        self.options = options
        self.prompts = prompts
        self._render_help = render_help
        self.leaving = False
        self._credentials: Credentials | None = None
        self._client: AdminClient | None = None

    @property
    def prompt(self) -> str:
        """What the shell shows before each line: who works where."""
        where = urlsplit(self.options.url).netloc or self.options.url
        return f"{self._credentials.user_id}@{where}> " if self._credentials else f"{where}> "

    @property
    def signed_in(self) -> bool:
        """Whether credentials are known."""
        return self._credentials is not None

    def output(self, arguments: Arguments) -> Output:
        """Where a command shows what it found."""
        return Output(as_json=self.options.as_json or arguments.has(JSON))

    async def credentials(self) -> Credentials:
        """Those in use, else those that the shell was started with. Asks for what is missing if somebody is there.

        Raises:
            CredentialsMissing: there are none, and nobody to ask.
            ConfigError: they are damaged.
        """
        if self._credentials is not None:
            return self._credentials
        options = self.options
        try:
            return load_credentials(options.username, options.secret_file)
        except CredentialsMissing:
            if not self.prompts.present or options.secret_file is not None:
                raise
        name = check_user_id(options.username or await self.prompts.name("user name: "))
        return Credentials(name, await self.prompts.secret(name))

    async def client(self) -> AdminClient:
        """The connection; asks for what is missing if somebody is there to be asked.

        Raises:
            CredentialsMissing: there are no credentials, and nobody to ask.
            ConfigError: they are damaged.
        """
        if self._client is None:
            return self.use(await self.credentials())
        return self._client

    def use(self, credentials: Credentials) -> AdminClient:
        """Work with these credentials from here on."""
        client = self.new_client(credentials)
        self.close()
        self._credentials, self._client = credentials, client
        return client

    def new_client(
        self, credentials: Credentials, *, give_up_after: float | None = None, notify: Callable[[str], None] = note
    ) -> AdminClient:
        """Another connection to the same server, which its caller closes."""
        limit: dict[str, float] = {} if give_up_after is None else {"give_up_after": give_up_after}
        name, secret, options = credentials.user_id, credentials.secret, self.options
        return AdminClient(name, secret, options.url, notify=notify, insecure=options.insecure, **limit)

    def silent_client(self) -> AdminClient | None:
        """A connection for what happens behind a person's back, which its caller closes: gives up soon, says nothing.

        None if nobody is signed in.
        """
        if self._credentials is None:
            return None
        return self.new_client(self._credentials, give_up_after=0.0, notify=lambda _: None)

    async def confirm(self, arguments: Arguments, question: str) -> None:
        """Make sure that something is meant to be destroyed.

        Raises:
            ClientError: the person says no.
            ConfigError: nobody is there to ask, and `--yes` is not given.
            Interrupted: Ctrl-C.
        """
        if self.options.yes or arguments.has(YES):
            return
        try:
            meant = await self.prompts.confirm(question)
        except Interrupted:
            note("nothing was changed")
            raise
        if not meant:
            raise ClientError("nothing was changed")

    def help(self, words: Sequence[str]) -> str:
        """The help of a command, of all commands with a first word, or of the shell."""
        return self._render_help(words)

    def forget(self) -> None:
        """Sign out."""
        self.close()
        self._credentials = None

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
