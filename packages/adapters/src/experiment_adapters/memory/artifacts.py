"""Artifacts in memory."""

# ruff: noqa: ARG002 - a unit of work is alone with the store: there is nothing to lock

from collections.abc import Collection, Sequence
from uuid import UUID

from experiment_adapters.memory.paging import newest_first, one_of
from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.artifacts import Artifact, ArtifactRepository, ArtifactStatus
from experiment_domain.kernel.entity import Lock, Page, Position


class MemoryArtifacts(ArtifactRepository):
    """Artifacts."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def get(self, artifact_id: UUID, lock: Lock = Lock.NONE) -> Artifact | None:
        self._transaction.settle()
        return self._store.artifacts.get(artifact_id)

    def add(self, artifact: Artifact) -> None:
        self._transaction.refers(self._store.runs, artifact.run_id, "run")
        self._transaction.insert(self._store.artifacts, artifact.id, artifact, "artifact")

    def save(self, artifact: Artifact) -> None:
        self._transaction.save(self._store.artifacts, artifact, "artifact")

    async def page(
        self,
        run_id: UUID,
        *,
        statuses: Collection[ArtifactStatus] = (),
        kinds: Collection[str] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Artifact]:
        self._transaction.settle()
        found = [
            artifact
            for artifact in self._of(run_id)
            if one_of(artifact.status, statuses) and one_of(artifact.kind, kinds)
        ]
        return newest_first(found, limit, after)

    async def approved_of(self, run_id: UUID, limit: int) -> Sequence[Artifact]:
        return (await self.page(run_id, statuses=[ArtifactStatus.APPROVED], limit=limit, after=None)).items

    async def any_in(self, run_id: UUID) -> bool:
        self._transaction.settle()
        return bool(self._of(run_id))

    def _of(self, run_id: UUID) -> list[Artifact]:
        return [artifact for artifact in self._store.artifacts.values() if artifact.run_id == run_id]
