"""Settings of all unit tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is slow now and then; that is no fault of the code under test.
settings.register_profile("dts", deadline=None)
settings.load_profile("dts")
