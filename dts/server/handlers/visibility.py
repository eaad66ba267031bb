"""Which runs, jobs and functions a request may reach."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from dts.model import RESERVED_NAMESPACE, Block, Candidate, Claim, Function, Run, User, is_id, parse_function_name
from dts.server.consts import ErrorCode
from dts.server.handlers._base import DtsHandler
from dts.server.handlers.errors import ApiError
from dts.server.handlers.rights import not_for
from dts.server.intake.memo import record_answers, without
from dts.wire import dts_pb2
from dts.wire.queues import TOPIC_RESULTS

Stored = tuple[Block, dts_pb2.JobBatch]
"""A block that was stored, and its jobs."""


class WorkHandler(DtsHandler):
    """Base of the handlers of runs and jobs."""

    everybodys = False
    """Whether this handler serves the runs and jobs of all users alike."""

    async def usable_function(self, user: User, name: str) -> Function:
        """The function of that name, which the caller may run now.

        Raises:
            ApiError: there is none, or it is disabled, or the caller may not run it.
            InvalidName: there can be none.
        """
        namespace, _ = parse_function_name(name)
        if namespace == RESERVED_NAMESPACE and not user.is_administrator:
            raise not_for(user, name)
        if namespace == RESERVED_NAMESPACE and self.caller is not None and self.caller.replaced:
            raise ApiError(ErrorCode.FORBIDDEN, "this needs the new secret: it runs inside the server")
        self.check_member(user, namespace)
        function = await self.context.catalogue.get(name)
        if function is None:
            raise ApiError(ErrorCode.FUNCTION_NOT_FOUND, await self._how_to_register(name))
        if not function.enabled:
            raise ApiError(ErrorCode.FUNCTION_DISABLED, f"the function {name} is disabled")
        return function

    async def _how_to_register(self, name: str) -> str:
        """What to say of a function that is not registered: the commands that an administrator can cure that with."""
        namespace, _ = parse_function_name(name)
        commands = [f"dts-admin functions add {name}"]
        if await self.context.catalogue.namespace(namespace) is None:
            commands.insert(0, f"dts-admin namespaces add {namespace}")
        return (
            f"there is no function {name}: it is not registered. An administrator registers it: {'; '.join(commands)}"
        )

    async def unserved_route(self, name: str) -> str | None:
        """The route that jobs of a function wait for while no live worker serves it; None if there is no such route.

        That is the function's own route, or one that it had before while messages wait there: jobs stay in the queue
        that they were put into. Those messages may be another function's.
        """
        function = await self.context.catalogue.get(name) if name else None
        if function is None:
            return None
        serves = self.context.fleet.serves
        if not await serves(function.route):
            return function.route
        for route in function.left_routes:
            if not await serves(route) and await self.context.left_routes.has_jobs(self.context.broker, route):
                return route
        return None

    async def publish(
        self,
        stored: tuple[Block, dts_pb2.JobBatch],
        function: Function,
        claim: Claim | None,
        ended: Sequence[Candidate],
    ) -> None:
        """Record those jobs of a block as `ended` that need not be run, and have the others published.

        It was stored just now, under `claim`.
        """
        context = self.context
        block, batch = stored
        if ended:
            await record_answers(context.store, ended)
            context.hub.wake(block.run)
            await context.broker.broadcast(TOPIC_RESULTS, block.run)
            batch = without(batch, reduce(or_, (each.ended for each in ended)))
        if batch.jobs:
            context.publisher.submit(block, batch, function, claim)

    def may_see(self, user: User, owner: str) -> bool:
        """Whether the caller may know of the runs and jobs of their owner."""
        return self.everybodys or owner == user.id

    async def own_run(self, user: User, run_id: str) -> Run:
        """The user's run of that id.

        Raises:
            ApiError: there is none, or it is another user's: the answer is the same.
        """
        run = await self.context.store.get_run(run_id) if is_id(run_id) else None
        if run is None or not self.may_see(user, run.user):
            raise ApiError(ErrorCode.NOT_FOUND, f"there is no run {run_id[:80]}")
        return run
