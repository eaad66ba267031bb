"""The server: REST handlers over the store and the broker, and the daemons that consume the queues."""
