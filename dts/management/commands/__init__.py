"""The commands of the shell, in the order of its help."""

from __future__ import annotations

from dts.management.commands import (
    account,
    alerts,
    backup,
    diagnosis,
    functions,
    history,
    log,
    namespaces,
    routes,
    schedules,
    secrets,
    ssh,
    users,
    vhosts,
    work,
)

ALL_COMMANDS = (
    *account.COMMANDS,
    *users.COMMANDS,
    *namespaces.COMMANDS,
    *functions.COMMANDS,
    *routes.COMMANDS,
    *vhosts.COMMANDS,
    *schedules.COMMANDS,
    *secrets.COMMANDS,
    *ssh.COMMANDS,
    *work.COMMANDS,
    *alerts.COMMANDS,
    *history.COMMANDS,
    *backup.COMMANDS,
    *log.COMMANDS,
    *diagnosis.COMMANDS,
)
