"""Alerts: what is the matter in the fleet, by rules, and who gets to know of it."""
