"""The version of DTS: one place, read by the packaging, `--version` and the heartbeats."""

__version__ = "0.1.0"
