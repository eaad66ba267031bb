"""What a HUP leads to when something goes wrong."""

from __future__ import annotations

import asyncio
import logging
from unittest.mock import Mock

import pytest

from dts.config import Settings, load_settings
from dts.errors import ConfigError
from dts.worker.command.reload import Reloader


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("no such key"), "the configuration was not reloaded: no such key"),
        (RuntimeError("out of order"), "the configuration was reloaded in part"),
    ],
)
async def test_a_reload_that_fails_says_so_and_the_next_one_is_done(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = load_settings(None, environment={})
    worker = Mock()
    outcomes: list[Exception | None] = [error, None]

    async def adopt(_: object) -> None:
        if (raised := outcomes.pop(0)) is not None:
            raise raised

    def load() -> Settings:
        return settings

    worker.adopt = adopt
    shipping = Mock(level=logging.WARNING)
    reloader = Reloader(
        settings=settings,
        load=load,
        check=lambda settings: 0,
        worker=worker,
        agent=Mock(),
        shipping=shipping,
        notifier=(notifier := Mock()),
    )
    try:
        for _ in range(2):
            reloader.request()
            await asyncio.sleep(0)  # it begins
            await reloader.stop()
    finally:
        logging.getLogger().removeHandler(shipping)
    assert said in caplog.text
    assert "the configuration was reloaded; changed: nothing" in caplog.text
    told = [each.args[0] if each.args else each[0] for each in notifier.method_calls]
    assert told == ["tell_reloading", "READY=1"] * 2, "also when it fails"
