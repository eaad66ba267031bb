"""Whether a user may run a function, for jobs that are submitted without a request of theirs."""

from __future__ import annotations

from dts.errors import InvalidName
from dts.model import RESERVED_NAMESPACE, User, parse_function_name
from dts.server.access.roles import Scope, scope_of
from dts.server.lookup.catalogue import Catalogue


async def why_not(catalogue: Catalogue, user: User | None, name: str) -> str:
    """What keeps a user from running a function now, in words; "" if nothing does.

    It is what a request of theirs would be refused for: `WorkHandler.usable_function` has the same rules.

    Raises:
        StoreUnavailable: nobody can tell.
    """
    if user is None:
        return "its user is not there any more"
    if user.disabled:
        return f"the user {user.id} is disabled"
    try:
        namespace, _ = parse_function_name(name)
    except InvalidName as error:
        return error.message
    if (refusal := _no_right(user, namespace)) is not None:
        return refusal
    function = await catalogue.get(name)
    if function is None:
        return f"there is no function {name}"
    return "" if function.enabled else f"the function {name} is disabled"


def _no_right(user: User, namespace: str) -> str | None:
    if namespace == RESERVED_NAMESPACE and not user.is_administrator:
        return f"{user.id} is no administrator, and functions of {namespace} run inside the server"
    scope = scope_of(user.roles, "POST", "/runs/")
    if scope is Scope.NONE:
        return f"no role of {user.id} allows to run functions"
    if scope is not Scope.ALL and not user.belongs_to(namespace):
        return f"{user.id} does not belong to the namespace {namespace}"
    return None
