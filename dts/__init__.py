"""DTS: a distributed task scheduler. A file of lines, a function, a fleet of workers, one result per line."""

from dts.version import __version__

__all__ = ["__version__"]
