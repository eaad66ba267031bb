"""The administrator's side: AdminClient for programs, the shell `dts-admin` for people and scripts."""

from dts.management.client import AdminClient

__all__ = ["AdminClient"]
