"""Questions to the person at the terminal. They appear on stderr, so that stdout has nothing but data."""

from __future__ import annotations

import sys

from prompt_toolkit import PromptSession
from prompt_toolkit.history import DummyHistory
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.output import create_output

from dts.errors import ConfigError, CredentialsMissing, InvalidInput

MIN_SECRET = 8
"""Characters of a secret at least, as at the server."""

_TRIES = 3


class Interrupted(Exception):
    """Ctrl-C at a question or at the prompt. A KeyboardInterrupt in a task would end the whole event loop."""


class Prompts:
    """Asks, if there is somebody to ask: `present` is whether stdin is a terminal."""

    def __init__(self, *, present: bool) -> None:
        self.present = present

    async def confirm(self, question: str) -> bool:
        """Whether the person says yes; anything else, an empty line too, is no.

        Raises:
            ConfigError: there is nobody.
        """
        if not self.present:
            raise ConfigError(f"{question} Nobody is there to ask: give --yes if you mean it")
        answer = await self._ask(f"{question} [y/N] ")
        return answer.strip().lower() in ("y", "yes")

    async def name(self, question: str) -> str:
        """One word.

        Raises:
            CredentialsMissing: nobody is there, or nothing was typed.
        """
        answer = (await self._ask(question)).strip() if self.present else ""
        if not answer:
            raise CredentialsMissing
        return answer

    async def secret(self, owner: str) -> str:
        """The secret that somebody has, without echo, and without white space around it as in a file.

        Raises:
            CredentialsMissing: nobody is there, or nothing was typed.
        """
        answer = (await self._ask(f"secret of {owner}: ", echo=False)).strip() if self.present else ""
        if not answer:
            raise CredentialsMissing(f"no secret of {owner} is given")
        return answer

    async def new_secret(self, owner: str) -> str:
        """A secret to be, typed twice without echo.

        Raises:
            ConfigError: there is nobody; says how to give it otherwise.
            InvalidInput: after three tries the two still differ, or are too short.
        """
        if not self.present:
            raise ConfigError(
                f"{owner} needs a secret, and nobody is there to ask: give --secret-file FILE or secret=generate"
            )
        reason = ""
        for _ in range(_TRIES):
            first = (await self._ask(f"{reason}new secret of {owner}: ", echo=False)).strip()
            if len(first) < MIN_SECRET:
                reason = f"too short, at least {MIN_SECRET} characters; "
            elif (await self._ask("the same again: ", echo=False)).strip() != first:
                reason = "the two differ; "
            else:
                return first
        raise InvalidInput("no secret was given: nothing was changed")

    async def _ask(self, question: str, *, echo: bool = True) -> str:
        session: PromptSession[str] = PromptSession(
            history=DummyHistory(),
            input_processors=None if echo else [_Hidden()],
            output=create_output(stdout=sys.stderr),
            interrupt_exception=Interrupted,
        )
        try:
            return await session.prompt_async(question, handle_sigint=False)
        except EOFError:
            return ""


class _Hidden(Processor):
    """Shows nothing of what is typed, not even how long it is."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        return Transformation([], source_to_display=lambda _: 0, display_to_source=lambda _: 0)
