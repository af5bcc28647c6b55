"""How far relays have come, in memory."""

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.kernel.errors import VersionMismatch
from experiment_domain.relays import RelayPlaces


class MemoryRelays(RelayPlaces):
    """A place for each sink."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def of(self, sink: str) -> str | None:
        self._transaction.settle()
        return self._store.relays.get(sink)

    def advance(self, sink: str, before: str | None, place: str) -> None:
        self._transaction.check(self._store.relays.get(sink) == before, VersionMismatch("relay"))
        self._transaction.put(self._store.relays, sink, place)
