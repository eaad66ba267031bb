"""Notices to people and programs: mails and webhooks, through an outbox in the store."""
