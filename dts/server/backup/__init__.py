"""Backup and restore of all that administrators keep, and of unfinished work, over either back end."""
