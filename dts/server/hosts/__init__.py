"""Work on the fleet's hosts over ssh: commands on many at a time, and hosts that are brought into service."""
