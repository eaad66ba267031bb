"""Every error that DTS raises, grouped by who handles it.

    DtsError
    ├── ConfigError            a setting is missing, unknown or of the wrong type: the process does not start
    │   └── CredentialsMissing no user name or no secret is given: a person at a terminal can be asked for it
    ├── InvalidInput           a caller's value breaks a rule of the model: answered 400, nothing is stored
    │   ├── InvalidName        a function, namespace, user or run name that is not allowed
    │   └── TooLarge           more bytes, jobs or nesting than the limit says
    ├── AuthError              a request is not signed, mis-signed, stale or replayed: always the same 401
    ├── WireError              bytes that are not the message they claim to be: dead-lettered, never retried
    ├── StoreError
    │   ├── StoreUnavailable   the store cannot be reached now: answered 503, retried by daemons
    │   ├── NotStorable        what is to be stored cannot be, and never will: dead-lettered, never retried
    │   ├── DuplicateKey       something with that id exists already: answered 409
    │   ├── LogDamaged         nothing can follow in the operation log: answered 409, and nothing is changed
    │   ├── LastAdministrator  the write would leave no administrator: answered 409
    │   ├── BlockConflict      another block is stored under that number: answered 409
    │   └── BlockTooLate       its run was cancelled before it was stored: its jobs are ended, answered 409
    ├── BrokerError
    │   └── BrokerUnavailable  not confirmed in time; it may or may not be stored, so the caller publishes again
    │       └── RouteUnavailable   the broker that a route has of its own; the others may well answer
    ├── LoadError              a function cannot be run: its job fails and says why
    │   ├── FunctionMissing    there is no such module
    │   ├── ImportFailed       the module is there and raised while it was imported
    │   └── MainMissing        the module has no callable `main` or `main_many`
    ├── HostError              a host of the fleet cannot be worked on over ssh: said of that host, the others go on
    │   ├── HostUnreachable    it does not answer, or the connection was lost: can be tried again later
    │   ├── HostKeyChanged     it shows another host key than the one on record: nothing is sent to it
    │   ├── LoginRefused       it does not take the key on record, or there is none
    │   └── CommandFailed      a command on it ended with another status than 0
    └── ClientError
        ├── RequestRefused     the server answered 4xx: the request must change first
        ├── RunCancelled       somebody else cancelled the run: what was accepted of it has ended
        ├── ReaderGone         who read the rows has closed the pipe: nobody need be told
        ├── FileBusy           another client writes the output file now
        ├── JobFailed          a job whose result was asked for has none: it failed, or was cancelled
        ├── InputChanged       a run is resumed over an input that is not the one it began with
        ├── ServerUnavailable  no answer, or 5xx: the request can be made again as it is
        └── ComponentError     an input line that a component cannot read: recorded, the run goes on

An exception's docstring is its default message.
"""

from __future__ import annotations

from collections.abc import Mapping


class DtsError(Exception):
    """Something went wrong in DTS."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())

    @property
    def message(self) -> str:
        """The sentence for a person to read."""
        return str(self.args[0])


class ConfigError(DtsError):
    """The configuration is not valid."""


class CredentialsMissing(ConfigError):
    """No user name or no secret is given."""


class InvalidInput(DtsError):
    """The input is not valid."""


class InvalidName(InvalidInput):
    """The name is not valid."""


class TooLarge(InvalidInput):
    """The input is over the limit."""


class AuthError(DtsError):
    """The request is not signed by a known user, or its signature is not valid."""


class WireError(DtsError):
    """The bytes are not a message that DTS can read."""


class StoreError(DtsError):
    """The store could not do what it was asked to."""


class StoreUnavailable(StoreError):
    """The store cannot be reached."""


class NotStorable(StoreError):
    """What is to be stored is too large, or of a kind that the store does not take."""


class DuplicateKey(StoreError):
    """Something with that id exists already."""


class LogDamaged(StoreError):
    """Somebody has meddled with the end of the operation log: nothing was changed. `operations verify` says more."""


class LastAdministrator(StoreError):
    """Nobody else who is not disabled is an administrator: give another user that role first, then try again."""


class BlockConflict(StoreError):
    """A different block is stored under that number."""


class BlockTooLate(StoreError):
    """The run was cancelled before the block was stored."""


class BrokerError(DtsError):
    """The broker could not do what it was asked to."""


class BrokerUnavailable(BrokerError):
    """The broker did not confirm in time."""


class RouteUnavailable(BrokerUnavailable):
    """The broker that a route has of its own did not confirm in time."""


class LoadError(DtsError):
    """The function cannot be loaded."""


class FunctionMissing(LoadError):
    """There is no such function in the functions directory."""


class ImportFailed(LoadError):
    """The function's module raised an error while it was imported."""


class MainMissing(LoadError):
    """The function's module has no callable named `main` or `main_many`."""


class HostError(DtsError):
    """The host could not do what it was asked to."""


class HostUnreachable(HostError):
    """The host does not answer, or the connection to it was lost."""


class HostKeyChanged(HostError):
    """The host shows another host key than the one on record."""


class LoginRefused(HostError):
    """The host does not take the key on record."""


class CommandFailed(HostError):
    """The command on the host failed."""

    def __init__(self, message: str | None = None, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class ClientError(DtsError):
    """The client could not do what it was asked to."""


class RequestRefused(ClientError):
    """The server refused the request."""

    def __init__(self, message: str | None = None, *, status: int = 400, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RunCancelled(ClientError):
    """Somebody else cancelled the run."""


class ReaderGone(ClientError):
    """Who read what was written has gone."""


class FileBusy(ClientError):
    """Somebody else writes the output file now."""


class JobFailed(ClientError):
    """The job failed, or was cancelled. `error` has its type, message and traceback."""

    def __init__(self, job: str, error: Mapping[str, str]) -> None:
        super().__init__(f"job {job} failed: {error.get('type')}: {error.get('message')}")
        self.error = error


class InputChanged(ClientError):
    """The input is not the one that the run began with."""

    def __init__(self, line: int, message: str | None = None) -> None:
        super().__init__(message)
        self.line = line


class ServerUnavailable(ClientError):
    """The server cannot be reached."""

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ComponentError(ClientError):
    """The input line cannot be read."""
