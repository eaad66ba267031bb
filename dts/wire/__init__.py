"""What travels between the processes: messages, how they are encoded, and the names of the queues."""
