"""The fleet's hosts over ssh: connections that are shared, commands, and files that are replaced in one step.

`SshConnections.use(host)` gives a connection to a host; nothing else of DTS speaks ssh. Neither the configuration nor
the keys, the agent or the known hosts of the user that the server runs as are read: what counts is the host's record.
"""

from dts.server.ssh.connection import Completed, SshConnection
from dts.server.ssh.connections import SshConnections
from dts.server.ssh.host_keys import HostKey, fetch_host_key

__all__ = ["Completed", "HostKey", "SshConnection", "SshConnections", "fetch_host_key"]
