"""The handlers under `/admin/`: records over one base, the operation log, everybody's work, dead letters."""
