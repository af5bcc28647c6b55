"""Artifacts in memory."""

from collections.abc import Collection, Sequence
from operator import attrgetter
from uuid import UUID

from experiment_adapters.memory.paging import newest_first, one_of
from experiment_adapters.memory.repository import MemoryRepository
from experiment_domain.artifacts import Artifact, ArtifactRepository, ArtifactStatus
from experiment_domain.kernel.entity import Page, Position


class MemoryArtifacts(MemoryRepository[Artifact], ArtifactRepository):
    """Artifacts."""

    rows = attrgetter("artifacts")
    noun = "artifact"

    def add(self, artifact: Artifact) -> None:
        self._transaction.refers(self._store.runs, artifact.run_id, "run")
        self._transaction.insert(self._store.artifacts, artifact.id, artifact, "artifact")

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
