"""Scalar metrics in memory."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.scalars import KnownScalars, Place, Scalar, ScalarMetrics, ScalarPage


class MemoryScalars(ScalarMetrics):
    """Every value of every run and name, in the order of arrival."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def hold(self, run_id: UUID, names: Collection[str]) -> KnownScalars:
        self._transaction.settle()
        known = self._store.scalars.get(run_id, ())
        last_steps: dict[str, int] = {}
        for scalar in known:
            if scalar.name in names:
                last_steps[scalar.name] = max(scalar.step, last_steps.get(scalar.name, scalar.step))
        return KnownScalars(names=len({scalar.name for scalar in known}), last_steps=last_steps)

    def append(self, run_id: UUID, scalars: Sequence[Scalar]) -> None:
        self._transaction.refers(self._store.runs, run_id, "run")
        known = self._store.scalars.get(run_id, ())
        self._transaction.put(self._store.scalars, run_id, (*known, *scalars))

    async def history(
        self, run_id: UUID, names: Collection[str], *, limit: int, after: Place | None = None
    ) -> ScalarPage:
        self._transaction.settle()
        before: Counter[str] = Counter()
        found: list[tuple[Place, Scalar]] = []
        for scalar in self._store.scalars.get(run_id, ()):
            if scalar.name in names:
                found.append(((scalar.step, scalar.name, before[scalar.name]), scalar))
                before[scalar.name] += 1
        rest = sorted((it for it in found if after is None or it[0] > after), key=lambda it: it[0])
        return ScalarPage(
            items=[scalar for _, scalar in rest[:limit]], next=rest[limit - 1][0] if len(rest) > limit else None
        )

    async def latest(self, run_ids: Collection[UUID]) -> Mapping[UUID, Sequence[Scalar]]:
        self._transaction.settle()
        found: dict[UUID, Sequence[Scalar]] = {}
        for run_id in run_ids:
            latest: dict[str, Scalar] = {}
            for scalar in self._store.scalars.get(run_id, ()):
                if scalar.name not in latest or scalar.step >= latest[scalar.name].step:
                    latest[scalar.name] = scalar
            if latest:
                found[run_id] = [latest[name] for name in sorted(latest)]
        return found

    async def any_in(self, run_id: UUID) -> bool:
        self._transaction.settle()
        return run_id in self._store.scalars
