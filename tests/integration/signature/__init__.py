"""That docs/signature.md is enough to write a client: one was."""
