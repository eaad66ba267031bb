"""AdminClient's rules at the seam of its transport: pages, versions, what is repeated, the chain of operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from dts.client.transport import Transport
from dts.errors import InvalidInput, RequestRefused
from dts.management.api.chain import check_chain
from dts.management.api.resources import Dead, Jobs, Listing, Operations, Records, Runs


class FakeTransport:
    """Serves rows, and one record `alice` with a version; `meanwhile` is called before each PATCH."""

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows = rows or []
        self.alice: dict[str, Any] = {"id": "alice", "version": 1, "email": "", "roles": ["user"]}
        self.calls: list[tuple[str, str]] = []
        self.sent: list[object] = []
        self.repeatable: list[bool] = []
        self.verdict: dict[str, Any] = {"valid": True, "entries": 0, "last": 0, "faults": []}
        self.meanwhile: Callable[[], None] = lambda: None

    async def call(
        self,
        method: str,
        path: str,
        params: object = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        wait: float = 0.0,
    ) -> Any:
        self.calls.append((method, path + (f"?{dict(query)}" if query else "")))
        self.sent.append(params)
        self.repeatable.append(repeatable)
        if path.endswith("verify"):
            return self.verdict
        if method == "GET" and path.endswith("/"):
            return self._page(query or {})
        if method == "PATCH":
            self._patch(cast(dict[str, Any], params), headers or {})
        return dict(self.alice)

    def _page(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        key = "seq" if self.rows and "seq" in self.rows[0] else "id"
        rows = [row for row in self.rows if "after" not in query or str(row[key]) > query["after"]]
        if key == "seq":
            rows = [row for row in self.rows if row["seq"] > int(query.get("after", "0"))]
        return rows[: int(query["limit"])]

    def _patch(self, params: dict[str, Any], headers: Mapping[str, str]) -> None:
        self.meanwhile()
        if headers["If-Match"] != f'"{self.alice["version"]}"':
            raise RequestRefused("somebody was faster", status=412, code="version_mismatch")
        self.alice |= {**params, "version": self.alice["version"] + 1}

    def somebody_writes(self, times: int = 1, **fields: object) -> None:
        """Before the next `times` PATCHes somebody else changes fields."""

        def write() -> None:
            nonlocal times
            if times > 0:
                times -= 1
                self.alice |= {**fields, "version": self.alice["version"] + 1}

        self.meanwhile = write

    def as_transport(self) -> Transport:
        return cast(Transport, self)


@pytest.fixture
def fake() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def users(fake: FakeTransport) -> Records:
    return Records(fake.as_transport(), "/admin/users/")


# pages


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.management.api.resources.PAGE", 10)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize(("count", "requests"), [(0, 1), (9, 1), (10, 2), (25, 3)])
async def test_a_list_is_read_page_by_page_to_its_end(count: int, requests: int) -> None:
    fake = FakeTransport([{"id": f"u{number:03}"} for number in range(count)])
    rows = [row async for row in Listing(fake.as_transport(), "/admin/users/").list()]
    assert rows == fake.rows
    assert len(fake.calls) == requests


@pytest.mark.usefixtures("small_pages")
async def test_a_limit_asks_for_no_more_than_that() -> None:
    fake = FakeTransport([{"id": f"u{number:03}"} for number in range(100)])
    rows = [row async for row in Listing(fake.as_transport(), "/p/").list(limit=12)]
    assert len(rows) == 12
    assert fake.calls[1][1] == "/p/?{'limit': '2', 'after': 'u009'}"


async def test_no_page_is_fetched_before_it_is_needed() -> None:
    fake = FakeTransport([{"id": f"u{number:04}"} for number in range(2000)])
    async for _ in Listing(fake.as_transport(), "/p/").list():
        break
    assert len(fake.calls) == 1


async def test_filters_are_spelled_as_the_server_reads_them(fake: FakeTransport) -> None:
    _ = [
        row async for row in Listing(fake.as_transport(), "/p/").list(disabled=True, roles="user", limit=5, email=None)
    ]
    assert fake.calls == [("GET", "/p/?{'disabled': 'true', 'roles': 'user', 'limit': '5'}")]


# ids


@pytest.mark.parametrize("record_id", ["", ".", "..", "a/../b", "a//b", "/a", "a/"])
async def test_an_id_that_names_another_place_is_not_sent(record_id: str, users: Records, fake: FakeTransport) -> None:
    with pytest.raises(InvalidInput, match="is not an id"):
        await users.delete(record_id)
    with pytest.raises(InvalidInput, match="is not an id"):
        await Jobs(fake.as_transport()).get(record_id)
    assert fake.calls == []


# versions


async def test_an_update_applies_to_the_version_that_was_read(users: Records, fake: FakeTransport) -> None:
    assert (await users.update("alice", email="a@x"))["version"] == 2
    assert fake.alice["email"] == "a@x"
    assert fake.repeatable == [True, False]


async def test_an_update_is_made_anew_when_others_changed_other_fields(users: Records, fake: FakeTransport) -> None:
    fake.somebody_writes(times=2, roles=["developer"])
    await users.update("alice", email="a@x")
    assert (fake.alice["email"], fake.alice["roles"]) == ("a@x", ["developer"])


@pytest.mark.parametrize(("theirs", "mine"), [({"email": "b@x"}, {"email": "a@x"}), ({"roles": []}, {"secret": "s"})])
async def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(
    theirs: dict[str, object], mine: dict[str, object], users: Records, fake: FakeTransport
) -> None:
    fake.somebody_writes(**theirs)
    with pytest.raises(RequestRefused, match="somebody else has changed alice meanwhile") as caught:
        await users.update("alice", **mine)
    assert caught.value.status == 412
    assert {name: fake.alice[name] for name in theirs} == theirs


async def test_a_function_of_the_record_is_applied_to_what_others_left(users: Records, fake: FakeTransport) -> None:
    fake.somebody_writes(roles=["user", "developer"])
    await users.modify("alice", lambda user: {"roles": [*user["roles"], "operator"]})
    assert fake.alice["roles"] == ["user", "developer", "operator"]


async def test_a_change_of_nothing_sends_nothing(users: Records, fake: FakeTransport) -> None:
    await users.modify("alice", lambda user: {})
    assert [method for method, _ in fake.calls] == ["GET"]


async def test_a_record_that_never_rests_is_given_up(users: Records, fake: FakeTransport) -> None:
    fake.somebody_writes(times=100, roles=["developer"])
    with pytest.raises(RequestRefused, match="changes all the time"):
        await users.update("alice", email="a@x")
    with pytest.raises(RequestRefused, match="changes all the time"):
        await users.modify("alice", lambda user: {"email": "a@x"})


async def test_other_refusals_are_passed_on(users: Records, fake: FakeTransport) -> None:
    def refuse() -> None:
        raise RequestRefused("no such role", status=400, code="argument_invalid")

    fake.meanwhile = refuse
    for attempt in (users.update("alice", email=""), users.modify("alice", lambda _: {"email": ""})):
        with pytest.raises(RequestRefused, match="no such role"):
            await attempt


async def test_writes_are_not_repeated_when_their_answer_is_lost(users: Records, fake: FakeTransport) -> None:
    await users.add("bob", secret="s")
    await users.delete("bob", force=True, version=3)
    await Dead(fake.as_transport()).replay(function="a/b")
    assert fake.repeatable == [False, False, False]
    assert fake.calls[1] == ("DELETE", "/admin/users/bob?{'force': 'true'}")


# the rest


async def test_everybodys_and_ones_own_are_in_different_places(fake: FakeTransport) -> None:
    transport = fake.as_transport()
    await Runs(transport).cancel("r1")
    await Runs(transport, own=True).get("r1")
    await Jobs(transport).cancel("r1-0")
    await Jobs(transport, own=True).get("r1-0")
    assert [path for _, path in fake.calls] == ["/admin/runs/r1", "/runs/r1", "/admin/jobs/r1-0", "/jobs/r1-0"]


async def test_a_replay_says_what(fake: FakeTransport) -> None:
    dead = Dead(fake.as_transport())
    with pytest.raises(InvalidInput, match="needs a condition"):
        await dead.replay()
    await dead.replay(everything=True)
    await dead.replay(queue="q", reason="r")
    assert fake.sent == [{"where": {}, "all": True}, {"where": {"queue": "q", "reason": "r"}}]


# the chain


def entries(count: int) -> list[dict[str, Any]]:
    return [{"seq": n, "previous": f"h{n - 1}", "hash": f"h{n}"} for n in range(1, count + 1)]


async def test_a_whole_log_is_whole() -> None:
    fake = FakeTransport(entries(1200))
    fake.verdict |= {"entries": 1200, "last": 1200}
    verdict = await check_chain(Operations(fake.as_transport()))
    assert (verdict.valid, verdict.entries) == (True, 1200)


async def test_entries_after_the_last_that_was_verified_are_not_looked_at() -> None:
    rows = entries(5)
    rows[4]["previous"] = "not looked at yet"
    fake = FakeTransport(rows)
    fake.verdict |= {"entries": 4, "last": 4}
    verdict = await check_chain(Operations(fake.as_transport()))
    assert (verdict.valid, verdict.entries) == (True, 4)


async def test_what_the_server_finds_counts() -> None:
    fake = FakeTransport(entries(3))
    fake.verdict |= {"valid": False, "entries": 3, "last": 3, "faults": [{"seq": 2, "problem": "was changed"}]}
    verdict = await check_chain(Operations(fake.as_transport()))
    assert verdict.as_dict() == {"valid": False, "entries": 3, "faults": [{"seq": 2, "problem": "was changed"}]}


async def test_a_gap_and_a_broken_link_are_seen_without_the_server() -> None:
    rows = entries(6)
    del rows[1:3]
    rows[2]["previous"] = "forged"
    fake = FakeTransport(rows)
    fake.verdict |= {"entries": 4, "last": 6}
    verdict = await check_chain(Operations(fake.as_transport()))
    assert verdict.faults == (
        {"seq": 2, "problem": "entries 2 to 3 are missing"},
        {"seq": 5, "problem": "does not continue the entry before it"},
    )


async def test_a_server_that_only_says_no_is_believed() -> None:
    fake = FakeTransport(entries(2))
    fake.verdict |= {"valid": False, "entries": 2, "last": 2}
    verdict = await check_chain(Operations(fake.as_transport()))
    assert [fault["seq"] for fault in verdict.faults] == [2]
