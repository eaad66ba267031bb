"""A run as the client does it: what goes out, what comes in, and what is noted so that it can be resumed."""
