"""The contract of a store, the part about the operation log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from dts.model import KeptOperation, Operation, Seal
from dts.store.contract.records import Where


class OperationStore(ABC):
    """What a store keeps as the operation log."""

    # operations

    @abstractmethod
    async def append_operation(self, operation: Operation, seal: Seal) -> Operation:
        """Append an entry to the operation log, durably, and return it with its `seq`, `previous` and `hash`.

        `seal` gives the hash of an entry that has the other two; it may be called from another thread, and more than
        once. The log stays one chain without gaps, however many processes append at the same time.

        It goes on after its last entry or, where entries are missing at the end, after what `operations_head` says.

        Raises:
            LogDamaged: no number is left that could follow; somebody has made an entry of the greatest one.
        """

    @abstractmethod
    async def list_operations(
        self, *, where: Where | None = None, limit: int = 100, after: int | None = None, newest_first: bool = True
    ) -> list[Operation]:
        """Entries of the operation log in order of `seq`, from the one that follows `after`.

        The names in `where` are among OPERATION_FILTERS, each with one value. What somebody has put there under
        anything but a whole number from 1 to LAST_OPERATION is no entry: it is passed over.
        """

    @abstractmethod
    def kept_operations(self) -> AsyncIterator[KeptOperation]:
        """All that is kept as the operation log, for whoever verifies it: entries in order of `seq`, then the rest.

        `damage` tells what no hash covers: fields that are too many or of another type, and what a list with filters
        goes by. Entries that are appended meanwhile may be among them. Of what is no entry, a hundred at most are told.
        """

    @abstractmethod
    async def operations_head(self) -> tuple[int, str]:
        """`seq` and `hash` of the entry that was appended last, kept apart from the log; 0 and "" before the first.

        They are 0 and "" as well when somebody has made something of them that cannot be read.

        A crash may leave it one entry behind the log, and never more; the next append puts that right.
        """
