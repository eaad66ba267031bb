"""The secrets of a namespace as workers get them: all together, encrypted with the fleet's key."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from dts.errors import TooLarge
from dts.model.documents import Document
from dts.model.secrets import COLLECTION, MAX_OF_NAMESPACE, Secret
from dts.server.access.key_box import KeyBox
from dts.store import Store
from dts.wire.confidential import encrypt
from dts.wire.seal import Seal


def place_of(secret_id: str) -> str:
    """What a secret is bound to in the store."""
    return f"secrets/{secret_id}"


async def check_size(store: Store, box: KeyBox, record: Secret) -> None:
    """Make sure that the secrets of a namespace are not too many or too large with this one among them.

    Raises:
        TooLarge: they are.
    """
    others = {each.id: each for each in await _records(store, record.namespace)}
    size = len(_plain(box, [*({**others, record.id: record}).values()]))
    if size > MAX_OF_NAMESPACE:
        raise TooLarge(
            f"the secrets of {record.namespace} would take {size} bytes together, over {MAX_OF_NAMESPACE}: keep large "
            "files elsewhere, and what opens them as a secret"
        )


async def refresh(store: Store, box: KeyBox, seal: Seal, namespace: str) -> None:
    """Have workers get the secrets of a namespace as they are on record now, from the next message on."""
    while True:
        before = await store.get_document(COLLECTION, namespace)
        records = await _records(store, namespace)
        if not records:
            if before is None or await store.delete_document(before):
                return
            continue
        body = encrypt(seal, namespace, _plain(box, records)).encode()
        if before is None:
            if await store.add_document(Document(COLLECTION, namespace, {}, body=body)):
                return
        elif await store.replace_document(replace(before, body=body)):
            return


async def refresh_all(store: Store, box: KeyBox, seal: Seal) -> None:
    """Encrypt all secrets anew, since the fleet's key may be another one, and drop the sets of which none is left."""
    names, after = {each.namespace for each in await store.list_records(Secret, limit=None)}, None
    while page := await store.list_documents(COLLECTION, after=after):
        names.update(document.id for document in page)
        after = page[-1].id
    for namespace in sorted(names):
        await refresh(store, box, seal, namespace)


async def _records(store: Store, namespace: str) -> list[Secret]:
    return await store.list_records(Secret, where={"namespace": namespace}, limit=None)


def _plain(box: KeyBox, records: list[Secret]) -> bytes:
    values = {each.name: box.unseal(each.secret, place_of(each.id)).decode() for each in records}
    return msgspec.json.encode(values, order="deterministic")
