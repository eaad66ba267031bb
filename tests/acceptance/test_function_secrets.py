"""Secrets of a namespace: its functions have them, and they are nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pymongo

from tests.services.deployment import Deployment, rows

CANARY = 'canary-Sécret"42\\x'
"""A text that JSON writes in several ways."""

FORMS = {
    form.encode() for form in (CANARY, json.dumps(CANARY)[1:-1], json.dumps(CANARY, ensure_ascii=False)[1:-1], "canary")
}

FUNCTION = """
import os, sys
from dts.worker import context

def main(what):
    token = context.secrets.TOKEN
    if what == "length":
        return len(token)
    if what == "result":
        return {"deep": ["x" + token]}
    if what == "print":
        print("printed", token, flush=True)
        os.write(2, token[:5].encode())
        os.write(2, token[5:].encode() + b" in two parts\\n")
    if what == "log":
        context.logger.error("logged %s", token)
    if what == "raise":
        raise ValueError("raised " + token)
    if what == "partials":
        return parts(token)
    if what == "environment":
        return [name for name, value in os.environ.items() if token in value]
    if what == "missing":
        return context.secrets.NOPE
    if what == "shown":
        return repr(context.secrets)
    if what == "die":
        print("dying with", token, flush=True)
        os._exit(3)

def parts(token):
    yield "part " + token
    raise ValueError(token)
"""

WORK = ["length", "result", "print", "log", "raise", "partials", "environment", "missing", "shown", "die"]


def test_functions_have_secrets_and_nothing_else_has_them(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "functions/crm").mkdir(parents=True)
    (tmp_path / "functions/crm/use.py").write_text(FUNCTION)
    (tmp_path / "functions/other").mkdir()
    (tmp_path / "functions/other/use.py").write_text(FUNCTION)
    (tmp_path / "canary").write_text(CANARY + "\n")
    (tmp_path / "in.txt").write_text("".join(f"{what}\n" for what in WORK))
    deployment.start_server()
    if not deployment.embedded:
        deployment.start_daemons()
    deployment.start_worker("worker", "--functions", str(tmp_path / "functions"))
    shown = [
        deployment.admin("namespaces", "add", "crm"),
        deployment.admin("namespaces", "add", "other"),
        deployment.admin("functions", "add", "crm/use", "max_attempts=1"),
        deployment.admin("functions", "add", "other/use"),
        deployment.admin("secrets", "set", "crm", "TOKEN", "--file", str(tmp_path / "canary"), "--json"),
    ]
    done = deployment.run_client("crm/use", tmp_path / "in.txt", tmp_path / "out.json", "--fields", "args")
    others = deployment.run_client("other/use", tmp_path / "in.txt", tmp_path / "others.json")
    shown += [
        deployment.admin("secrets", "list"),
        deployment.admin("--json", "operations", "list"),
        deployment.admin("--json", "logs"),
        deployment.admin("--json", "dead", "list"),
        deployment.admin("secrets", "remove", "crm", "TOKEN", "--yes"),
    ]
    assert [each.returncode for each in shown] == [0] * len(shown), [each.stderr for each in shown]
    found = {row["args"][0]: row for row in rows(tmp_path / "out.json")}
    assert found["length"]["result"] == len(CANARY)
    assert found["result"]["result"] == {"deep": ["x***"]}
    assert found["raise"]["error"]["message"] == "raised ***"
    assert found["environment"]["result"] == []
    assert found["shown"]["result"] == "<secrets TOKEN>"
    assert "no secret NOPE: it has TOKEN" in found["missing"]["error"]["message"]
    assert not found["die"]["success"]
    assert all("it has none" in row["error"]["message"] for row in rows(tmp_path / "others.json"))
    log = deployment.log("worker")
    assert "printed ***" in log
    assert "*** in two parts" in log
    deployment.stop()
    everywhere = [
        done.stderr,
        others.stderr,
        *(each.stdout + each.stderr for each in shown),
        repr(in_mongo(deployment)),
    ]
    texts = [text.encode() for text in everywhere]
    texts += [path.read_bytes() for path in deployment.folder.rglob("*") if path.is_file()]
    texts += [(tmp_path / name).read_bytes() for name in ("out.json", "others.json")]
    for form in FORMS:
        assert not [text[max(0, text.find(form) - 80) :][:200] for text in texts if form in text]


def in_mongo(deployment: Deployment) -> list[object]:
    """All that the store has, if it is MongoDB."""
    if deployment.store_url is None:
        return []
    with pymongo.MongoClient[dict[str, object]](deployment.store_url) as client:
        database = client.get_default_database()
        return [list(database[name].find()) for name in database.list_collection_names()]
