"""Who may do what: one table, enforced in one place (`signed` in dts/server/handlers/_base.py).

A route that has no row here cannot be called at all, and a test says so before anybody notices.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Scope(IntEnum):
    """To what a role's permission reaches. Of several roles of a user, the widest counts."""

    NONE = 0
    OWN = 1
    """What belongs to the caller; anything else is a 404, as if it were not there."""
    MEMBER = 2
    """What is in a namespace that the caller belongs to; anything else is a 403, and not in a list."""
    ALL = 3


NONE, OWN, MEMBER, ALL = Scope

ROLES = ("administrator", "operator", "developer", "user")
"""All roles, in the order of the columns below."""

FLEET = frozenset({"/fleet/versions/{namespace}/{name}/{id}"})
"""Routes of workers, which sign with the fleet's key and are no users."""

PUBLIC = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs", "/docs/{file}"}) | FLEET
"""Routes that need no user's signature."""

TABLE: dict[tuple[str, str], tuple[Scope, Scope, Scope, Scope]] = {
    # jobs and runs of one's own             administrator operator developer user
    ("POST", "/jobs/"): (ALL, NONE, MEMBER, MEMBER),
    ("GET", "/jobs/"): (OWN, OWN, OWN, OWN),
    ("DELETE", "/jobs/"): (OWN, OWN, OWN, OWN),
    ("POST", "/jobs/collected"): (OWN, OWN, OWN, OWN),
    ("GET", "/jobs/{id}"): (OWN, OWN, OWN, OWN),
    ("DELETE", "/jobs/{id}"): (OWN, OWN, OWN, OWN),
    ("POST", "/runs/"): (ALL, NONE, MEMBER, MEMBER),
    ("GET", "/runs/"): (OWN, OWN, OWN, OWN),
    ("GET", "/runs/{id}"): (OWN, OWN, OWN, OWN),
    ("PATCH", "/runs/{id}"): (OWN, OWN, OWN, OWN),
    ("DELETE", "/runs/{id}"): (OWN, OWN, OWN, OWN),
    ("PUT", "/runs/{id}/blocks/{number}"): (ALL, NONE, MEMBER, MEMBER),
    ("GET", "/runs/{id}/blocks"): (OWN, OWN, OWN, OWN),
    ("GET", "/runs/{id}/blocks/{number}/results"): (OWN, OWN, OWN, OWN),
    ("GET", "/runs/{id}/results"): (OWN, OWN, OWN, OWN),
    ("POST", "/runs/{id}/collected"): (OWN, OWN, OWN, OWN),
    ("GET", "/whoami"): (OWN, OWN, OWN, OWN),
    ("PATCH", "/whoami"): (OWN, OWN, OWN, OWN),
    ("GET", "/webhooks/secret"): (OWN, OWN, OWN, OWN),
    # records                                administrator operator developer user
    ("GET", "/admin/users/"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/users/"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/users/{id}"): (ALL, ALL, NONE, NONE),
    ("PATCH", "/admin/users/{id}"): (ALL, NONE, NONE, NONE),
    ("DELETE", "/admin/users/{id}"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/namespaces/"): (ALL, ALL, MEMBER, MEMBER),
    ("POST", "/admin/namespaces/"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/namespaces/{id}"): (ALL, ALL, MEMBER, MEMBER),
    ("PATCH", "/admin/namespaces/{id}"): (ALL, NONE, NONE, NONE),
    ("DELETE", "/admin/namespaces/{id}"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/functions/"): (ALL, ALL, MEMBER, MEMBER),
    ("POST", "/admin/functions/"): (ALL, NONE, MEMBER, NONE),
    ("GET", "/admin/functions/{function}"): (ALL, ALL, MEMBER, MEMBER),
    ("PATCH", "/admin/functions/{function}"): (ALL, NONE, MEMBER, NONE),
    ("DELETE", "/admin/functions/{function}"): (ALL, NONE, MEMBER, NONE),
    ("GET", "/admin/functions/{namespaced}/versions/"): (ALL, ALL, MEMBER, MEMBER),
    ("POST", "/admin/functions/{namespaced}/versions/"): (ALL, NONE, MEMBER, NONE),
    ("GET", "/admin/functions/{namespaced}/versions/{id}"): (ALL, ALL, MEMBER, MEMBER),
    ("GET", "/admin/functions/{namespaced}/versions/{id}/source"): (ALL, ALL, MEMBER, NONE),
    ("GET", "/admin/functions/{namespaced}/rollout"): (ALL, ALL, MEMBER, NONE),
    ("POST", "/admin/functions/{namespaced}/rollout"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/vhosts/"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/vhosts/"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/vhosts/{id}"): (ALL, ALL, NONE, NONE),
    ("PATCH", "/admin/vhosts/{id}"): (ALL, NONE, NONE, NONE),
    ("DELETE", "/admin/vhosts/{id}"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/routes/"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/routes/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/routes/{id}"): (ALL, ALL, NONE, NONE),
    ("PATCH", "/admin/routes/{id}"): (ALL, ALL, NONE, NONE),
    ("DELETE", "/admin/routes/{id}"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/schedules/"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/schedules/"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/schedules/{id}"): (ALL, ALL, NONE, NONE),
    ("PATCH", "/admin/schedules/{id}"): (ALL, NONE, NONE, NONE),
    ("DELETE", "/admin/schedules/{id}"): (ALL, NONE, NONE, NONE),
    ("POST", "/admin/schedules/{id}/fire"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/schedules/{id}/firings"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/secrets/"): (ALL, ALL, MEMBER, NONE),
    ("POST", "/admin/secrets/"): (ALL, NONE, MEMBER, NONE),
    ("GET", "/admin/secrets/{function}"): (ALL, ALL, MEMBER, NONE),
    ("PATCH", "/admin/secrets/{function}"): (ALL, NONE, MEMBER, NONE),
    ("DELETE", "/admin/secrets/{function}"): (ALL, NONE, MEMBER, NONE),
    ("POST", "/admin/ssh/host-key"): (ALL, NONE, NONE, NONE),
    ("POST", "/admin/ssh/run"): (ALL, NONE, NONE, NONE),
    ("POST", "/admin/ssh/init"): (ALL, NONE, NONE, NONE),
    ("POST", "/admin/ssh/upgrade"): (ALL, NONE, NONE, NONE),
    ("POST", "/admin/ssh/status"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/ssh/drain"): (ALL, NONE, NONE, NONE),
    ("POST", "/admin/ssh/remove"): (ALL, NONE, NONE, NONE),
    # what everybody does                    administrator operator developer user
    ("GET", "/admin/operations/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/operations/verify"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/operations/{seq}"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/runs/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/runs/{id}"): (ALL, ALL, NONE, NONE),
    ("DELETE", "/admin/runs/{id}"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/runs/{id}/requeue"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/runs/{id}/retry"): (ALL, ALL, NONE, NONE),
    ("DELETE", "/admin/jobs/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/jobs/{id}"): (ALL, ALL, NONE, NONE),
    ("DELETE", "/admin/jobs/{id}"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/dead/"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/dead/replay"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/backup"): (ALL, NONE, NONE, NONE),
    ("POST", "/admin/restore"): (ALL, NONE, NONE, NONE),
    ("PUT", "/admin/restore/{number}"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/hosts/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/hosts/{id}/history"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/statistics/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/logs/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/alerts/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/alerts/rules/"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/alerts/rules/"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/alerts/rules/{id}"): (ALL, ALL, NONE, NONE),
    ("PATCH", "/admin/alerts/rules/{id}"): (ALL, NONE, NONE, NONE),
    ("DELETE", "/admin/alerts/rules/{id}"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/alerts/silences/"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/alerts/silences/"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/alerts/silences/{id}"): (ALL, ALL, NONE, NONE),
    ("PATCH", "/admin/alerts/silences/{id}"): (ALL, ALL, NONE, NONE),
    ("DELETE", "/admin/alerts/silences/{id}"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/alerts/notices/"): (ALL, ALL, NONE, NONE),
    ("POST", "/admin/alerts/test"): (ALL, ALL, NONE, NONE),
    ("GET", "/admin/alerts/secret"): (ALL, NONE, NONE, NONE),
    ("GET", "/admin/diagnosis"): (ALL, ALL, NONE, NONE),
}

FIELDS: dict[tuple[str, str], tuple[Scope, Scope, Scope, Scope]] = {
    # fields that fewer may write than the record, or take away with it
    #                                        administrator operator developer user
    ("functions", "limits"): (ALL, NONE, NONE, NONE),
    ("functions", "memory_limit"): (ALL, NONE, NONE, NONE),
    ("functions", "priority"): (ALL, NONE, NONE, NONE),
    ("functions", "route"): (ALL, NONE, NONE, NONE),
}


def scope_of(roles: Iterable[str], method: str, template: str) -> Scope:
    """How far somebody with these roles may go with a method of a route; NONE also where there is no row."""
    row = TABLE.get((method, template))
    if row is None:
        return NONE
    return max((row[ROLES.index(role)] for role in roles if role in ROLES), default=NONE)


def may_write(roles: Iterable[str], kind: str, field: str) -> bool:
    """Whether somebody with these roles who may write records of a kind may write that field of theirs."""
    row = FIELDS.get((kind, field))
    return row is None or any(row[ROLES.index(role)] is not NONE for role in roles if role in ROLES)


def roles_for_field(kind: str, field: str) -> list[str]:
    """The roles that may write a field of records of a kind, for a message."""
    row = FIELDS.get((kind, field), (NONE,) * len(ROLES))
    return [role for role, scope in zip(ROLES, row, strict=True) if scope is not NONE]


def roles_for(method: str, template: str) -> list[str]:
    """The roles that may call a method of a route at all, for a message."""
    row = TABLE.get((method, template), (NONE,) * len(ROLES))
    return [role for role, scope in zip(ROLES, row, strict=True) if scope is not NONE]
