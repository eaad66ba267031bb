"""Whose jobs they are: their user, function, namespace and route, which decide together when they may be published.

Costs some looks into memory. What the records say is at most two seconds old.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dts.model import ALL_ROUTES, DEFAULT_PRIORITY, DEFAULT_ROUTE, Function, Limits, Namespace, Route, User
from dts.server.lookup.cache import Cache
from dts.server.lookup.catalogue import Catalogue
from dts.store import Store

_CACHE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Subject:
    """Someone or something that has limits; `kind` is how the store counts by it."""

    kind: str
    id: str
    limits: Limits

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


@dataclass(frozen=True, slots=True)
class Parties:
    """The records that jobs of a user and a function come under, those of them that there are."""

    user_id: str
    name: str
    user: User | None
    namespace: Namespace | None
    function: Function | None
    routes: tuple[Route, ...] = ()

    @property
    def route(self) -> str:
        """The route that they go to."""
        return self.function.route if self.function is not None else DEFAULT_ROUTE

    def _subjects(self) -> Iterator[tuple[Subject, bool]]:
        """Each of them, and whether it is paused."""
        if self.user is not None:
            yield Subject("user", self.user_id, self.user.limits), self.user.paused
        if self.namespace is not None:
            yield Subject("namespace", self.namespace.id, self.namespace.limits), self.namespace.paused
        if self.function is not None:
            yield Subject("function", self.name, self.function.limits), self.function.paused
        for route in self.routes:
            yield Subject("route", route.id, route.limits), route.paused

    @property
    def paused(self) -> list[Subject]:
        """Those that are paused."""
        return [subject for subject, paused in self._subjects() if paused]

    @property
    def limited(self) -> list[Subject]:
        """Those whose jobs may not all begin at once."""
        return [subject for subject, _ in self._subjects() if subject.limits.metered]

    def priority(self, asked: int | None) -> int:
        """The priority of jobs that ask for `asked`: no higher than any of them may have."""
        usual = self.function.priority if self.function is not None else DEFAULT_PRIORITY
        most = [subject.limits.priority for subject, _ in self._subjects()]
        return min([usual if asked is None else asked, *(each for each in most if each is not None)])

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of namespace and user."""
        return self.namespace.weight if self.namespace else 1.0, self.user.weight if self.user else 1.0


class PartiesOf:
    """Looks parties up."""

    def __init__(self, store: Store, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._store = store
        self._users = Cache(store.get_user, _CACHE_SECONDS)
        self._routes = Cache(self._load_routes, _CACHE_SECONDS)

    async def __call__(self, user: str, name: str) -> Parties:
        """The parties of jobs of a user and of a function of that name.

        Raises:
            StoreUnavailable: nobody knows.
        """
        function = await self._catalogue.get(name)
        namespace = await self._catalogue.namespace(name.partition("/")[0])
        parties = Parties(user, name, await self._users.get(user), namespace, function)
        known = await self._routes.get("") or {}
        return replace(parties, routes=tuple(known[name] for name in (ALL_ROUTES, parties.route) if name in known))

    async def _load_routes(self, _: str) -> dict[str, Route]:
        return {route.id: route for route in await self._store.list_records(Route, limit=None)}
