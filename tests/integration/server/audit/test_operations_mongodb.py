"""The operation log over MongoDB, which takes any document: what somebody puts there is told, and stops nobody."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from pymongo import MongoClient
from pymongo.database import Database

from dts.config import Settings
from dts.management import AdminClient
from dts.management.api.chain import check_chain
from dts.management.doctor.remote import Verdict, check_from_inside
from tests.integration.conftest import Site
from tests.services import mongodb

Documents = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[mongodb.MongoServer]:
    """A MongoDB for all tests here."""
    if not mongodb.available():
        pytest.skip("no mongod on this machine")
    with mongodb.MongoServer() as started:
        yield started


@pytest.fixture
def settings(settings: Settings, server: mongodb.MongoServer) -> Settings:
    return replace(settings, store=replace(settings.store, url=server.url(f"test_{uuid.uuid4().hex}")))


@pytest.fixture
def documents(settings: Settings) -> Iterator[Documents]:
    """What is in the database, behind everybody's back."""
    with MongoClient[dict[str, Any]](settings.store.url) as client:
        yield client.get_default_database()


def copy_as(number: object) -> Callable[[Documents], object]:
    """Put a copy of the last entry under another id."""

    def change(documents: Documents) -> object:
        return documents["operations"].insert_one(
            {**(documents["operations"].find_one({"_id": 4}) or {}), "_id": number}
        )

    return change


def set_in(collection: str, key: object, **fields: object) -> Callable[[Documents], object]:
    return lambda documents: documents[collection].update_one({"_id": key}, {"$set": fields})


TAMPERING: list[tuple[Callable[[Documents], object], str]] = [
    (set_in("operations", 3, which=[]), "lists with filters do not find it"),
    (set_in("operations", 3, more="x"), "it has fields that no entry has: more"),
    (set_in("operations", 3, operator=5), "it was changed after it was written"),
    (copy_as("evil"), "a document with the _id 'evil' is among the entries"),
    (copy_as(3.5), "a document with the _id 3.5 is among the entries"),
    (copy_as(-(2**40)), "among the entries, and none of them"),
    (copy_as(10**12), "it was changed after it was written"),
    (set_in("operations_head", "head", seq="x"), "goes on after entry 0"),
]


@pytest.mark.parametrize(("change", "problem"), TAMPERING, ids=range(len(TAMPERING)))
async def test_what_somebody_puts_into_the_log_is_told_and_stops_nobody(
    site: Site, documents: Documents, change: Callable[[Documents], object], problem: str
) -> None:
    api = site.api()
    for name in ("lab", "text2"):
        await api.call("POST", "/admin/namespaces/", {"id": name}, status=201)
    change(documents)
    verdict = await api.call("GET", "/admin/operations/verify")
    assert any(problem in fault["problem"] for fault in verdict["faults"]), verdict
    secret = site.settings.server.admin_secret_file.read_text().strip()
    async with AdminClient("admin", secret, site.url) as client:
        assert any(problem in fault["problem"] for fault in (await check_chain(client.operations)).faults)
        [finding] = [each for each in await check_from_inside(client) if each.check == "operation log"]
    assert finding.verdict is Verdict.BAD
    await api.call("GET", "/admin/operations/")
    await api.call("POST", "/admin/namespaces/", {"id": "after"}, status=201)
    await api.call("PATCH", "/admin/namespaces/after", {"limits": {"unfinished": 2**35}})
    assert (await api.call("GET", "/admin/namespaces/after"))["limits"] == {"unfinished": 2**35}
    [newest] = await api.call("GET", "/admin/operations/?limit=1")
    assert (newest["doc_id"], newest["outcome"]) == ("after", "done")
