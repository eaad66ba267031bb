"""`operations …`: who changed what, and whether the record of it is whole."""

from __future__ import annotations

from dts.errors import InvalidInput
from dts.management.api.chain import check_chain, in_words
from dts.management.shell.arguments import LIMIT, Arguments, Flag
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, changes_in_words, limit_of, patience
from dts.management.shell.session import Session
from dts.management.utils import counted
from dts.runtime.process import EXIT_FAILED, EXIT_OK

OLDEST = Flag("--oldest", "oldest first")

_MOST_OF_CHANGES = 120  # characters in a table; operations get SEQ shows them all

_COLUMNS = (
    Column("seq", right=True),
    Column("timestamp", "time"),
    Column("operator"),
    Column("op_type", "operation"),
    Column("doc_id", "of"),
    Column("outcome"),
    Column("begun", right=True),
    Column("address", "from"),
    Column("ops", "changes", show=changes_in_words, most=_MOST_OF_CHANGES),
)

_FILTERS = (
    Field("doc_id", Kind.TEXT, "what was changed"),
    Field("op_type", Kind.TEXT, "such as users.update"),
    Field("operator", Kind.TEXT, "who changed it"),
    Field("outcome", Kind.TEXT, "begun, done, or the code of an error"),
    Field("address", Kind.TEXT, "from where"),
)


@command(
    "operations list",
    "[FIELD=VALUE …]",
    fields=_FILTERS,
    flags=(LIMIT, OLDEST),
    examples=("operations", "operations list operator=alice --limit 20", "operations list doc_id=alice --json"),
)
async def list_operations(session: Session, arguments: Arguments) -> None:
    """List the operation log, newest first: each write is an entry when it begins and one when it has ended."""
    output = session.output(arguments)
    limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
    order = "oldest" if arguments.has(OLDEST) else "newest"
    pages = (await session.client()).operations.pages(limit=limit, order=order, **arguments.values)
    await output.rows(pages, _COLUMNS, limit=limit, what="operations")


@command("operations get", "SEQ", words=(1, 1), examples=("operations get 17",))
async def get_operation(session: Session, arguments: Arguments) -> None:
    """Show one entry of the operation log with its hash."""
    number = arguments.word(0)
    if not (number.isascii() and number.isdigit()):
        raise InvalidInput(f"{number[:40]} is not the number of an entry")
    session.output(arguments).record(await (await session.client()).operations.get(number))


@command("operations verify", examples=("operations verify", "operations verify --json"))
async def verify(session: Session, arguments: Arguments) -> int:
    """Check that no entry of the operation log was changed, taken out or put in. Exit status 1 if one was.

    The server recomputes each entry's hash with its key file; the links between the entries, as the server shows
    them, are checked here as well.
    """
    output = session.output(arguments)
    operations = (await session.client()).operations
    with patience("the server goes through the operation log; that may take minutes"):
        verdict = await check_chain(operations)
    if output.as_json:
        output.record(verdict.as_dict())
    elif verdict.valid:
        output.say(f"the operation log is whole: {counted(verdict.entries, 'entry')}")
    else:
        output.say(f"the operation log is broken, {counted(verdict.entries, 'entry')}:")
        for fault in verdict.faults:
            output.say(f"  {in_words(fault)}")
    return EXIT_OK if verdict.valid else EXIT_FAILED


COMMANDS = (list_operations, get_operation, verify)
