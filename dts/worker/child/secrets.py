"""The secrets of the namespace that this child belongs to: behind `dts.worker.context.secrets`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from dts.worker.link.masking import Masker


class Secrets(Mapping[str, str]):
    """Secrets by name, `secrets["TOKEN"]` or `secrets.TOKEN`. They do not show themselves."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(self._missing(name)) from None

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(self._missing(name)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<secrets {', '.join(self._values) or 'none'}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("secrets are not to be copied to other processes")

    def _missing(self, name: str) -> str:
        have = f"it has {', '.join(sorted(self._values))}" if self._values else "it has none"
        return f"the namespace has no secret {name}: {have}. An administrator sets it: dts-admin secrets set"


class _Held:
    """What this process was given."""

    secrets = Secrets({})
    masker = Masker()


def adopt(body: bytes) -> None:
    """Take the secrets that the worker has sent, in place of those before; nothing for none."""
    values = json.loads(body) if body else {}
    _Held.secrets, _Held.masker = Secrets(values), _Held.masker.with_more(values.values())


def current() -> Secrets:
    """The secrets of the namespace at work."""
    return _Held.secrets


def masker() -> Masker:
    """What takes them out of what leaves this process."""
    return _Held.masker


def mask(text: str) -> str:
    """A text without the secrets that the namespace has now, or had."""
    return _Held.masker.text(text)
