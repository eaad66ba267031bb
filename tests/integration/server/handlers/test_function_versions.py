"""`/admin/functions/NS/FUNC/versions/`: versions are stored by content, and jobs name the one that they run."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from dts.wire.archive import SourceFile, pack, unpack
from tests.integration.conftest import Api, Site, check_refusal

PATH = "/admin/functions/text/stats/versions/"


def source(text: str = "def main(x):\n    return x\n", **files: bytes) -> bytes:
    return pack({"stats.py": SourceFile(text.encode()), **{name: SourceFile(data) for name, data in files.items()}})


async def deploy(api: Api, archive: bytes, query: str = "", *, path: str = PATH) -> Any:
    answer = await api.send("POST", path + query, archive, Content_Type="application/zip")
    assert answer.code == 201, answer.body
    return msgspec.json.decode(answer.body)["result"]


async def a_function(site: Site) -> Api:
    admin = site.api()
    await admin.call("POST", "/admin/functions/", {"id": "text/stats"}, status=201)
    return admin


async def test_new_jobs_and_runs_run_what_was_deployed_last(site: Site) -> None:
    admin = await a_function(site)
    await admin.call("POST", "/jobs/", {"function": "text/stats"}, status=201)
    first = await deploy(admin, source(), "?message=first")
    assert (first["user"], first["message"], first["active"]) == ("admin", "first", True)
    run = await admin.call("POST", "/runs/", {"function": "text/stats"}, status=201)
    second = await deploy(admin, source("def main(x):\n    return 2\n"))
    await admin.call("POST", "/jobs/", {"function": "text/stats"}, status=201)
    answer = await admin.send("PUT", f"/runs/{run['id']}/blocks/0", b'{"args": [1]}\n')
    assert answer.code == 201
    batches = await site.take_messages(3)
    assert [batch.options.version for batch in batches] == ["", second["version"], first["version"]]
    assert run["version"] == first["version"]


async def test_a_message_names_its_version_in_its_headers_too(site: Site) -> None:
    admin = await a_function(site)
    version = (await deploy(admin, source()))["version"]
    await admin.call("POST", "/jobs/", {"function": "text/stats"}, status=201)
    async with await site.broker.consume("dts.jobs.default", prefetch=1) as consumer:
        [delivery] = await consumer.receive(1)
        assert delivery.message.headers["version"] == version


async def test_the_same_files_are_the_same_version_and_the_latest_again(site: Site) -> None:
    admin = await a_function(site)
    one = await deploy(admin, source(), "?message=one")
    two = await deploy(admin, source("main = print"), "?message=two")
    again = await deploy(admin, source(), "?message=back")
    assert again["version"] == one["version"]
    listed = await admin.call("GET", PATH)
    assert [(each["version"], each["message"]) for each in listed] == [
        (one["version"], "back"),
        (two["version"], "two"),
    ]
    assert (await admin.call("GET", "/admin/functions/text/stats"))["deployed"] == one["version"]


async def test_a_version_is_found_by_its_first_digits_and_its_files_come_back(site: Site) -> None:
    admin = await a_function(site)
    version = (await deploy(admin, source(helper=b"1")))["version"]
    found = await admin.call("GET", f"{PATH}{version[:8]}")
    assert (found["version"], found["files"]) == (version, ["helper", "stats.py"])
    answer = await admin.send("GET", f"{PATH}{version[:8]}/source")
    assert unpack(answer.body)["helper"].data == b"1"
    for bad in ("abc", "zzzz", "0" * 64, "..%2F..", version + "0"):
        await admin.refused("GET", PATH + bad, status=400, code="argument_invalid")


async def test_a_pinned_version_runs_whatever_is_deployed(site: Site) -> None:
    admin = await a_function(site)
    one = (await deploy(admin, source()))["version"]
    await admin.call("PATCH", "/admin/functions/text/stats", {"pinned": one})
    two = await deploy(admin, source("main = print"))
    assert (two["deployed"], two["active"]) == (True, False)
    run = await admin.call("POST", "/runs/", {"function": "text/stats"}, status=201)
    assert run["version"] == one
    await admin.call("PATCH", "/admin/functions/text/stats", {"pinned": None})
    run = await admin.call("POST", "/runs/", {"function": "text/stats"}, status=201)
    assert run["version"] == two["version"]
    run = await admin.call("POST", "/runs/", {"function": "text/stats", "version": one[:10]}, status=201)
    assert run["version"] == one
    await admin.call("PATCH", "/admin/functions/text/stats", {"deployed": ""})
    assert "version" not in await admin.call("POST", "/runs/", {"function": "text/stats"}, status=201)


async def test_a_version_that_is_not_activated_waits(site: Site) -> None:
    admin = await a_function(site)
    version = await deploy(admin, source(), "?activate=false")
    assert not version["active"]
    await admin.call("PATCH", "/admin/functions/text/stats", {"deployed": version["version"]})
    assert (await admin.call("GET", PATH + version["version"]))["active"]


async def test_what_no_worker_could_run_is_refused(site: Site) -> None:
    admin = await a_function(site)
    for archive, code in (
        (source("def man(): pass"), "argument_invalid"),
        (source("def main(:"), "argument_invalid"),
        (pack({"other.py": SourceFile(b"main = 1")}), "argument_invalid"),
        (b"PK", "argument_invalid"),
    ):
        answer = await admin.send("POST", PATH, archive, Content_Type="application/zip")
        check_refusal(answer, 400, code)
    check_refusal(await admin.send("POST", PATH, source(), Content_Type="text/plain"), 415, "unsupported_media_type")
    check_refusal(
        await admin.send("POST", PATH + "?message=a%0Ab", source(), Content_Type="application/zip"),
        400,
        "argument_invalid",
    )
    assert await admin.call("GET", PATH) == []
    for field in ("deployed", "pinned"):
        for bad in ("0" * 64, "abcd", "../x"):
            params = {field: bad}
            await admin.refused("PATCH", "/admin/functions/text/stats", params, status=400, code="argument_invalid")
    await admin.refused(
        "POST", "/runs/", {"function": "text/stats", "version": "0000"}, status=400, code="argument_invalid"
    )
    answer = await admin.send("POST", "/admin/functions/text/none/versions/", source(), Content_Type="application/zip")
    check_refusal(answer, 404, "not_found")


async def test_developers_deploy_in_their_own_namespaces_only(site: Site) -> None:
    admin = await a_function(site)
    dora = await site.add_user("dora", roles=("developer",), namespaces=("text",))
    dave = await site.add_user("dave", roles=("developer",), namespaces=("other",))
    uma = await site.add_user("uma", namespaces=("text",))
    version = (await deploy(dora, source()))["version"]
    for who in (dave, uma):
        check_refusal(await who.send("POST", PATH, source(), Content_Type="application/zip"), 403, "forbidden")
        check_refusal(await who.send("GET", f"{PATH}{version}/source"), 403, "forbidden")
    assert (await uma.call("GET", PATH))[0]["version"] == version
    assert (await admin.call("GET", PATH))[0]["user"] == "dora"


async def test_the_operation_log_has_the_hash_and_not_the_content(site: Site) -> None:
    admin = await a_function(site)
    version = (await deploy(admin, source("main = print  # canary-secret"), "?message=why"))["version"]
    [done, begun] = (await admin.call("GET", "/admin/operations/?op_type=functions.deploy"))[:2]
    assert (done["outcome"], begun["outcome"], done["doc_id"]) == ("done", "begun", "text/stats")
    assert done["ops"] == {"version": version, "message": "why", "activate": True}
    assert b"canary-secret" not in msgspec.json.encode(await admin.call("GET", "/admin/operations/?limit=1000"))


async def test_an_archive_may_be_larger_than_other_bodies_and_not_without_limit(site: Site) -> None:
    admin = await a_function(site)  # whose server takes 200,000 bytes in a block
    import random

    noise = random.Random(1).randbytes(1_000_000)
    assert (await deploy(admin, source(noise=noise)))["size"] > 1_000_000
    answer = await admin.send("POST", PATH, bytes(10 * 1024 * 1024 + 1), Content_Type="application/zip")
    check_refusal(answer, 413, "too_large")


async def test_deploys_at_once_leave_one_of_them_active(site: Site) -> None:
    admin = await a_function(site)
    made = await asyncio.gather(*(deploy(admin, source(f"main = print  # {number}")) for number in range(5)))
    function = await admin.call("GET", "/admin/functions/text/stats")
    assert function["deployed"] in {each["version"] for each in made}
    assert len(await admin.call("GET", PATH)) == 5


async def test_a_function_that_is_deleted_takes_its_versions_along(site: Site) -> None:
    admin = await a_function(site)
    await deploy(admin, source())
    await admin.call("DELETE", "/admin/functions/text/stats")
    await admin.call("POST", "/admin/functions/", {"id": "text/stats"}, status=201)
    assert await admin.call("GET", PATH) == []


async def test_a_function_may_be_called_versions(site: Site) -> None:
    admin = site.api()
    await admin.call("POST", "/admin/functions/", {"id": "text/versions"}, status=201)
    assert (await admin.call("GET", "/admin/functions/text/versions"))["id"] == "text/versions"
    assert (await admin.call("GET", "/admin/functions/text%2Fversions"))["id"] == "text/versions"
    archive = pack({"versions.py": SourceFile(b"main = print")})
    for path in ("/admin/functions/text/versions/versions/", "/admin/functions/text%2Fversions/versions/"):
        await deploy(admin, archive, path=path)
