"""The files of a run: opened, locked and compared before anything is sent, and the ledger of a run to resume."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from dts.client.components import (
    STANDARD_STREAM,
    DataSource,
    FileComponent,
    JsonFileIOComponent,
    TextFileIOComponent,
    WordFileIOComponent,
    file_identity,
)
from dts.client.descriptors import shared_descriptor
from dts.client.formats import TableFormat, TemplateFormat
from dts.client.input.parquet import ParquetFileIOComponent
from dts.client.input.shaping import ShapedSource
from dts.client.input.tables import TabFileIOComponent, TableFileIOComponent
from dts.client.output import DailyRotatingOutputFile, Output, OutputFile
from dts.client.processors import RowWriter
from dts.client.rows import RowFormat
from dts.client.run.ledger import SUFFIX, Ledger
from dts.client.run.ledger_state import Header, LedgerState, is_unfinished, load_ledger
from dts.client.run.session import RunSpec
from dts.errors import ClientError, ConfigError

COMPONENTS: dict[str, type[FileComponent]] = {
    "text": TextFileIOComponent,
    "word": WordFileIOComponent,
    "json": JsonFileIOComponent,
    "csv": TableFileIOComponent,
    "tsv": TabFileIOComponent,
    "parquet": ParquetFileIOComponent,
}

ATTEMPT_OPTIONS = (
    "timeout",
    "soft_timeout",
    "max_attempts",
    "retry_on",
    "memory_limit",
    "not_before",
    "deadline",
    "priority",
    "weight",
    "notify",
    "version",
)

DELIMITERS = {"csv": ",", "tsv": "\t"}

SUFFIX_NEW = ".dts-new"
"""Of the name of a file that is about to take the place of OUTFILE."""

_SETTINGS = (
    "input_format",
    "errfile",
    "fields",
    "keep_order",
    "output_format",
    "format",
    "head",
    "null",
    "infile_start_position",
    "args",
    "id_field",
)
"""Options that are what a run is made of: it can only be resumed with the same."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What a run reads and writes. `ledger` is None where it could not be resumed: OUTFILE is a pipe or a device."""

    source: FileComponent | None
    out: Output
    errors: Output | None
    writer: RowWriter
    ledger: Ledger | None
    resumed: LedgerState | None
    outputs: tuple[str | None, str | None]
    settings: Mapping[str, Any]

    def spec(self, options: argparse.Namespace) -> RunSpec:
        """The run over these files that a command line asks for."""
        assert self.source is not None
        source = shape(self.source, options)
        asked = {name: getattr(options, name) for name in ATTEMPT_OPTIONS}
        return RunSpec(
            options.function,
            source,
            self.writer,
            options={name: value for name, value in asked.items() if value is not None},
            ledger=self.ledger,
            resumed=self.resumed,
            settings=self.settings,
            outputs=self.outputs,
            rereadable=self.source.identity is not None,
            detach=options.detach,
            id_field=options.id_field,
        )

    def with_state(self, state: LedgerState, writer: RowWriter) -> RunFiles:
        """The same files, for a run that goes on from `state`."""
        return replace(self, resumed=state, writer=writer)

    @property
    def complete(self) -> bool:
        """Whether the run to resume has a row for every line already."""
        resumed = self.resumed
        return resumed is not None and resumed.finished and not resumed.lost_rows


def open_files(options: argparse.Namespace, stack: ExitStack, source: FileComponent | None = None) -> RunFiles:
    """Open the files, so that what cannot work is refused before anything is sent.

    Raises:
        ClientError: one cannot be read or written, or is being written by another client.
        ConfigError: two of them are the same file; OUTFILE holds a run, and nothing says what is to become of it.
    """
    out = _open_output(options.outfile, options)
    errors = None if options.errfile is None else _open_output(options.errfile, options)
    if source is not None:
        stack.callback(source.close)
        source.open()
    for each in filter(None, (out, errors)):
        stack.callback(each.close)
        each.open()
        if source is not None and each.identity is not None and each.identity in source.identities:
            raise ConfigError(f"{each.name} is INFILE, too: write the rows to another file")
    if errors is not None and (out.name == errors.name or (out.identity and out.identity == errors.identity)):
        raise ConfigError("OUTFILE and --errfile are the same file: leave --errfile out to have all rows in one")
    _check_apart([each for each in (out, errors) if each is not None])
    for each in filter(None, (out, errors)):
        each.lock()
    settings = {name: _as_text(getattr(options, name)) for name in _SETTINGS if hasattr(options, name)}
    ledger, resumed, outputs = _find_ledger(options, out, errors, settings)
    if ledger is not None:
        stack.callback(ledger.close)
        ledger.check()
    writer = make_writer(options, out, errors, ledger, resumed)
    return RunFiles(source, out, errors, writer, ledger, resumed, outputs, settings)


def _as_text(value: Any) -> Any:
    """A setting as a ledger can note it: the name of a file may have bytes that are no text."""
    return os.fsencode(value).decode(errors="backslashreplace") if isinstance(value, str) else value


def shape(source: FileComponent, options: argparse.Namespace) -> DataSource:
    """The lines of a file as a command line asks for them."""
    if options.head is None and not options.args:
        return source
    return ShapedSource(source, head=options.head, kwargs=options.args)


def make_writer(
    options: argparse.Namespace,
    out: Output,
    errors: Output | None,
    ledger: Ledger | None,
    resumed: LedgerState | None,
) -> RowWriter:
    """What writes the rows in the way that a command line asks for."""
    keep_order = getattr(options, "keep_order", False)
    row_format = _row_format(options)
    return RowWriter(out, errors, row_format=row_format, ledger=ledger, resumed=resumed, keep_order=keep_order)


def make_source(options: argparse.Namespace) -> FileComponent:
    """The component that reads what a command line names.

    Raises:
        ConfigError: options that do not go together.
    """
    table = options.input_format in (*DELIMITERS, "parquet")
    if table and (options.null or options.infile_start_position or options.more_infiles):
        raise ConfigError(
            "csv, tsv and parquet are read from the first row of one file: not with -0, --infile or a start position"
        )
    if options.id_field and options.input_format in ("text", "word"):
        raise ConfigError("--id-field names a column of csv or tsv, or a name in JSON objects: give --input-format")
    kind = COMPONENTS[options.input_format]
    separator = b"\0" if options.null else b"\n"
    return kind(options.infile, more=options.more_infiles, separator=separator, start=options.infile_start_position)


def _open_output(path: str, options: argparse.Namespace) -> Output:
    """A file by its name; what is no regular file, such as /dev/null, has no name that a day could be put in."""
    names_a_file = path != STANDARD_STREAM and shared_descriptor(path) is None
    if options.rotate_daily and names_a_file and (os.path.isfile(path) or not os.path.exists(path)):
        return DailyRotatingOutputFile(path)
    return OutputFile(path)


def _check_apart(files: Sequence[Output]) -> None:
    """What this command prints would overwrite rows in the same file, and they what it prints.

    Raises:
        ConfigError: standard output or error goes to one of the files.
    """
    for number, stream in ((1, "standard output"), (2, "standard error")):
        for each in files:
            if isinstance(each, OutputFile) and each.regular and each.identity == file_identity(number):
                raise ConfigError(f"{each.name} is where {stream} goes, too: write the rows to another file, or to -")


def _row_format(options: argparse.Namespace) -> RowFormat:
    id_field = getattr(options, "id_field", "")
    if options.format is not None:
        return TemplateFormat(options.format, id_field=id_field)
    if options.output_format == "json":
        return RowFormat(options.fields, id_field=id_field)
    return TableFormat(options.fields, delimiter=DELIMITERS[options.output_format], id_field=id_field)


def _find_ledger(
    options: argparse.Namespace, out: Output, errors: Output | None, settings: Mapping[str, Any]
) -> tuple[Ledger | None, LedgerState | None, tuple[str | None, str | None]]:
    """Where the run is noted, and how far it was if it is resumed.

    Raises:
        ConfigError: OUTFILE holds a run that has not finished, and neither --resume nor --overwrite is given; or it
            cannot be resumed.
    """
    if not isinstance(out, OutputFile) or not out.regular:
        if options.resume:
            raise ConfigError("only a run whose OUTFILE is a file can be resumed, without --rotate-daily")
        return None, None, (None, None)
    path = out.path + SUFFIX
    outputs = (out.path, errors.path if isinstance(errors, OutputFile) and errors.regular else None)
    if options.overwrite:
        return Ledger(path), None, outputs
    if not options.resume and not _keeps_rows(options):
        if is_unfinished(path):
            raise ConfigError(
                f"{out.path} holds a run that has not finished: --resume goes on with it, --overwrite begins anew"
            )
        return Ledger(path), None, outputs
    state = _load(path, outputs, (out, errors))
    if state is None and os.path.getsize(out.path):
        raise ConfigError(f"{path} is missing, so that it is not known what {out.path} lacks: --overwrite begins anew")
    if state is not None:
        _check_same(state.header, options, settings)
    return Ledger(path), state, outputs


def _keeps_rows(options: argparse.Namespace) -> bool:
    return bool(getattr(options, "changed", False) or getattr(options, "retry_failed", False))


def put_in_place(files: Sequence[Output | None], names: Sequence[str | None]) -> None:
    """Let the new files that were written take the place of those that are open.

    Raises:
        ClientError: they cannot be opened, or another client was faster.
    """
    for each, name in zip(files, names, strict=True):
        if each is not None and name is not None:
            each.close()
            os.replace(f"{name}{SUFFIX_NEW}", name)
            each.open()
            each.lock()


def _load(path: str, outputs: tuple[str | None, str | None], files: tuple[Output, Output | None]) -> LedgerState | None:
    """The ledger's state; files that were about to take the place of old ones do so, if the ledger is about them."""
    fresh = [f"{output}{SUFFIX_NEW}" for output in outputs if output is not None]
    try:
        return load_ledger(path, outputs)
    except ClientError:
        if not all(map(os.path.exists, fresh)):
            raise
        state = load_ledger(path, (fresh[0], fresh[1] if len(fresh) > 1 else None))
        if state is None or state.lost_rows or not any(state.sizes):
            raise  # they are of another run, or not whole
        put_in_place(files, outputs)
        return load_ledger(path, outputs)


def _check_same(header: Header, options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Make sure that the run to resume is the one that the command line says.

    Raises:
        ConfigError: naming what differs.
    """
    if options.function and header.function != options.function:
        raise ConfigError(f"{options.outfile} holds a run of {header.function}, not of {options.function}")
    for name, value in msgspec.to_builtins(settings).items():
        if header.settings.get(name) != value:
            option = f"--{name.replace('_', '-')}"
            was = header.settings.get(name)
            raise ConfigError(
                f"{option} was {was!r} when the run in {options.outfile} began: give the same to resume it"
            )
