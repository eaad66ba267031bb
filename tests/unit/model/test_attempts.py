"""Each option of attempts is declared once: whatever speaks of them has all of them, with the same bounds."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from dts.config import WorkerSettings
from dts.management.commands.functions import FUNCTIONS
from dts.model import Function
from dts.model.attempts import ATTEMPT_OPTIONS, AttemptOption
from dts.model.ranges import MAX_NUMBER, NUMBER, SECONDS, TIME
from dts.server.handlers.admin.functions import FunctionFields
from dts.server.handlers.runs import RunParams
from dts.server.intake.options import AttemptParams
from dts.server.intake.submission import JobParams
from dts.wire.dts_pb2 import Job, JobBatch, Options
from dts.wire.options import merge, to_wire
from dts.worker.attempt.terms import TermsOf, default_terms

NAMES = [option.name for option in ATTEMPT_OPTIONS]
LIMITS = [option for option in ATTEMPT_OPTIONS if option.is_limit]
ROOT = Path(__file__).parents[3]


def test_whatever_speaks_of_them_has_all_of_them() -> None:
    assert set(NAMES) <= {field.name for field in fields(Function)}
    for struct in (FunctionFields, AttemptParams, RunParams, JobParams, WorkerSettings):
        assert set(NAMES) <= set(struct.__struct_fields__)
    assert [field.name for field in FUNCTIONS.fields if field.name in NAMES] == NAMES
    assert set(NAMES) <= {field.name for field in Options.DESCRIPTOR.fields}
    for file in ("etc/worker.toml", "etc/cluster/worker.toml"):
        assert set(NAMES) <= set(re.findall(r"^(\w+) =", (ROOT / file).read_text(), re.M))
    for page in ("docs/jobs.md", "docs/functions.md", "docs/rest.md"):
        rows = " ".join(re.findall(r"^\|([^|]*)\|", (ROOT / page).read_text(), re.M))
        assert set(NAMES) <= set(re.findall(r"`(\w+)`", rows)), page


def within(option: AttemptOption) -> list[float]:
    assert option.values is not None
    low = option.values.low + 5e-324 if option.values.above else option.values.low
    return [option.kind(number) for number in (low, option.values.high)]  # type: ignore[misc]


def beyond(option: AttemptOption) -> list[object]:
    assert option.values is not None
    low = option.values.low if option.values.above else option.values.low - 1
    return [*(option.kind(number) for number in (low, option.values.high * 2)), -1, 10**30, "1", True]


@pytest.mark.parametrize("option", LIMITS, ids=lambda option: option.name)
def test_what_is_within_bounds_arrives_at_the_worker_and_the_rest_is_refused(option: AttemptOption) -> None:
    for number in within(option):
        params = msgspec.json.decode(msgspec.json.encode({option.name: number}), type=AttemptParams)
        options = Options.FromString(to_wire(params).SerializeToString())
        terms = TermsOf(JobBatch(options=options), default_terms(WorkerSettings())).common
        assert getattr(terms, option.name) == number
    for struct in (AttemptParams, FunctionFields):
        for bad in beyond(option):
            with pytest.raises(msgspec.ValidationError):
                msgspec.json.decode(msgspec.json.encode({option.name: bad}), type=struct)
        for text in (b"1e999", b"NaN", b"-Infinity"):
            with pytest.raises(msgspec.DecodeError):
                msgspec.json.decode(b'{"%s": %s}' % (option.name.encode(), text), type=struct)


@pytest.mark.parametrize("option", LIMITS, ids=lambda option: option.name)
def test_the_lower_limit_holds_whoever_asks_for_it(option: AttemptOption) -> None:
    low, high = 5, 7
    for first, second in ((low, high), (high, low)):
        merged = merge(Options(**{option.name: first}), Options(**{option.name: second}))
        assert getattr(merged, option.name) == low
        batch = JobBatch(options=Options(**{option.name: first}), jobs=[Job(options=Options(**{option.name: second}))])
        terms = TermsOf(batch, default_terms(WorkerSettings())).of(batch.jobs[0])
        assert getattr(terms, option.name) == low
    assert getattr(merge(Options(), Options(**{option.name: high})), option.name) == high
    assert getattr(merge(Options(**{option.name: high}), Options()), option.name) == high


def test_the_settings_of_a_worker_are_no_limit_to_what_a_job_asks_for() -> None:
    batch = JobBatch(options=Options(timeout=9.0))
    assert TermsOf(batch, default_terms(WorkerSettings(timeout=5.0))).common.timeout == 9.0


def test_the_ranges_fit_what_numbers_pass_on_their_way() -> None:
    assert float(MAX_NUMBER) == MAX_NUMBER
    assert (10**12 - 1) * 2048 + 2047 in NUMBER
    assert TIME.high + SECONDS.high < 253_402_300_799, "the end of the year 9999"
    for option in LIMITS:
        assert option.values is not None
        assert option.kind is float or option.values.high < (2**64 if option.name == "memory_limit" else 2**32)
