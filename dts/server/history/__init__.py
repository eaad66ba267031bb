"""What was before: figures of hosts, and what became of functions' jobs, bounded in time and space."""
