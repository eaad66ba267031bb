"""`memo`: a job with the same arguments, for the same version of the function, gets the result of an earlier one.

What a key stands for is read once for a whole block, and written once for a message of results. The key covers the
function, its version and its arguments as canonical JSON. The version is that of the block, if it was deployed; else it
is the one that the last results named, as long as that is not long ago: when no result has come for a minute, the next
block has one job run that could have been answered, so that a change of the code shows.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from cachetools import LRUCache, TTLCache

from dts.errors import StoreUnavailable, TooLarge, WireError
from dts.model import Block, Candidate, Document, Function, bitmap
from dts.server.lookup.catalogue import Catalogue
from dts.server.record.blocks import decode_block
from dts.server.record.job_metrics import count_memo
from dts.store import Store
from dts.wire import codec, dts_pb2

logger = logging.getLogger(__name__)

MEMO = "memo"
"""The collection of documents by key: the body is a result, the group the function."""

MEMO_VERSIONS = "memo versions"
"""The collection of documents by function: which version its last results named, and when."""

MOST_BYTES = 16 * 1024
"""Bytes of a result that is remembered: a block's worth of them is read at once."""

MOST_RESULTS = 200_000
"""Results of a function that are remembered. With so many no more are until some have expired."""

_CONFIRMED = 60.0
"""Seconds for which it is believed that workers still have the version that the last results named."""

_NOTE_AGAIN = 10.0  # seconds after which it is noted anew that a version is the one in use
_COUNT_EACH = 2000  # results, after which it is counted how many there are
_FULL = 60.0  # seconds for which a function with too many has no more remembered
_BLOCKS = 16  # that are kept decoded, since their results come in several messages


async def answer_from_memo(store: Store, function: Function, block: Block, batch: dts_pb2.JobBatch) -> Candidate | None:
    """Results for those jobs of a block that need not be run; None if there are none.

    Raises:
        StoreUnavailable: nobody can tell.
    """
    if function.memo is None:
        return None
    version, is_sure = await _version(store, function.name, batch)
    if not version:
        return None
    keys = keys_of(function.name, version, batch)
    found = await store.get_documents(MEMO, set(keys.values()), body=True)
    now = store.now()
    results = {each.id: each.body for each in found if each.expires is not None and each.expires > now}
    answered = {index: results[key] for index, key in keys.items() if key in results}
    if answered and not is_sure:
        answered.pop(min(answered))
    return _candidate(block, version.partition(":")[2], answered, now) if answered else None


async def record_answers(store: Store, answers: Sequence[Candidate]) -> None:
    """Record how jobs of a block ended that need not be run, before its other jobs are published."""
    for answer, ended in zip(answers, await store.record(answers), strict=True):
        if good := answer.succeeded & (ended or 0):
            count_memo(answer.function, good.bit_count())


async def _version(store: Store, function: str, batch: dts_pb2.JobBatch) -> tuple[str, bool]:
    """The version that a block's jobs would run, and whether that is sure; empty if nobody knows."""
    if batch.options.version:
        return f"deployed:{batch.options.version}", True
    noted = await store.get_document(MEMO_VERSIONS, function)
    if noted is None:
        return "", False
    return f"named:{noted.data['version']}", store.now() - float(noted.data["seen"]) < _CONFIRMED


class MemoWriter:
    """Remembers results, for a porter that records them."""

    def __init__(self, store: Store, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self._blocks: LRUCache[str, dts_pb2.JobBatch] = LRUCache(_BLOCKS)
        self._noted: dict[str, tuple[str, float]] = {}
        self._since_count: dict[str, int] = {}
        self._full: TTLCache[str, bool] = TTLCache(1000, _FULL)

    async def remember(self, batches: Iterable[dts_pb2.ResultBatch]) -> None:
        """Remember what is new in some messages of results, of functions with a memo. What fails is not remembered."""
        for batch in batches:
            try:
                function = await self._catalogue.get(batch.function) if batch.results else None
                if function is not None and function.memo is not None and function.name not in self._full:
                    await self._remember(function, function.memo, batch)
            except (StoreUnavailable, WireError, TooLarge) as error:
                logger.info("results of block %s are not remembered for jobs like these: %s", batch.block, error)

    async def _remember(self, function: Function, seconds: float, batch: dts_pb2.ResultBatch) -> None:
        good = {each.index: each.value for each in batch.results if _is_worth(each)}
        jobs = await self._jobs(batch.block) if good else None
        if jobs is None:
            return
        version = f"deployed:{jobs.options.version}" if jobs.options.version else f"named:{batch.version}"
        if not jobs.options.version:
            await self._note_version(function.name, batch.version)
        expires = self._store.now() + seconds
        keys = keys_of(function.name, version, jobs, only=good)
        documents = [
            Document(MEMO, keys[index], {}, function.name, expires=expires, body=value)
            for index, value in good.items()
            if index in keys
        ]
        await self._store.put_documents(documents, durable=False)
        await self._check_room(function.name, len(documents))

    async def _jobs(self, block_id: str) -> dts_pb2.JobBatch | None:
        if (known := self._blocks.get(block_id)) is not None:
            return known
        block = await self._store.get_block(block_id)
        if block is None:
            return None
        self._blocks[block_id] = decode_block(block)
        return self._blocks[block_id]

    async def _note_version(self, function: str, version: str) -> None:
        now = self._store.now()
        before, at = self._noted.get(function, ("", 0.0))
        if before != version or now - at > _NOTE_AGAIN:
            await self._store.put_documents(
                [Document(MEMO_VERSIONS, function, {"version": version, "seen": now})], durable=False
            )
            self._noted[function] = version, now

    async def _check_room(self, function: str, added: int) -> None:
        self._since_count[function] = self._since_count.get(function, _COUNT_EACH) + added
        if self._since_count[function] >= _COUNT_EACH:
            self._since_count[function] = 0
            if await self._store.count_documents(MEMO, group=function) > MOST_RESULTS:
                self._full[function] = True
                logger.warning(
                    "%s has %d results in its memo: no more are remembered until some have expired; its memo may be "
                    "shorter",
                    function,
                    MOST_RESULTS,
                )


def keys_of(
    function: str, version: str, batch: dts_pb2.JobBatch, *, only: Mapping[int, object] | None = None
) -> dict[int, str]:
    """The key of each job of a block, by index; of those in `only`, if it is given."""
    start = hashlib.blake2b(f"{function}\0{version}\0".encode(), digest_size=16)
    keys: dict[int, str] = {}
    for job in batch.jobs:
        if only is None or job.index in only:
            digest = start.copy()
            digest.update(canonical(job.args, b"[]") + b"\0" + canonical(job.kwargs, b"{}"))
            keys[job.index] = digest.hexdigest()
    return keys


def without(batch: dts_pb2.JobBatch, jobs: int) -> dts_pb2.JobBatch:
    """A block without the jobs in a bitmap, whose indices the others keep."""
    rest = dts_pb2.JobBatch()
    rest.CopyFrom(batch)
    del rest.jobs[:]
    rest.jobs.extend([job for job in batch.jobs if not jobs >> job.index & 1])
    return rest


def canonical(raw: bytes, empty: bytes) -> bytes:
    """JSON in one spelling, whatever spaces and order of names it was written with."""
    if not raw:
        return empty
    try:
        return msgspec.json.encode(msgspec.json.decode(raw), order="deterministic")
    except (msgspec.MsgspecError, OverflowError, RecursionError, UnicodeError):
        return raw  # such as a number that is too long: only what is spelled the same is the same


def _is_worth(result: dts_pb2.Result) -> bool:
    """Whether a result is one that may be given again."""
    return bool(result.status == dts_pb2.SUCCEEDED and not result.partials and len(result.value) <= MOST_BYTES)


def _candidate(block: Block, version: str, answered: Mapping[int, bytes], now: float) -> Candidate:
    batch = dts_pb2.ResultBatch(
        block=block.id, run=block.run, function=block.function, worker="server", version=version, started=now, memo=True
    )
    for index, value in sorted(answered.items()):
        batch.results.add(index=index, status=dts_pb2.SUCCEEDED, value=value)
    body: codec.Encoded = codec.encode(batch)
    jobs = bitmap.from_indices(answered)
    return Candidate(block.id, body.body, body.content_encoding, succeeded=jobs, function=block.function)
