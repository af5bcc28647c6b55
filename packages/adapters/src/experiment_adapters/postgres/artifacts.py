"""Artifacts in PostgreSQL."""

from collections.abc import Collection, Sequence
from uuid import UUID

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import JSON, Order, Table, enum, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_domain.artifacts import Artifact, ArtifactRepository, ArtifactStatus
from experiment_domain.kernel.entity import Page, Position

ARTIFACTS = Table(Artifact, "artifacts", {"metadata": JSON, "status": enum(ArtifactStatus)})
NEWEST_FIRST = Order.by("-created_at")


class PostgresArtifacts(PostgresRepository[Artifact], ArtifactRepository):
    """Keeps artifacts in `artifacts`."""

    table = ARTIFACTS

    async def page(
        self,
        run_id: UUID,
        *,
        statuses: Collection[ArtifactStatus] = (),
        kinds: Collection[str] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Artifact]:
        conditions = _conditions(run_id, statuses, kinds)
        return await page(self._statements, ARTIFACTS, conditions, order=NEWEST_FIRST, limit=limit, after=after)

    async def approved_of(self, run_id: UUID, limit: int) -> Sequence[Artifact]:
        return (await self.page(run_id, statuses=[ArtifactStatus.APPROVED], limit=limit, after=None)).items

    async def any_in(self, run_id: UUID) -> bool:
        return await self._statements.ask("SELECT EXISTS (SELECT FROM artifacts WHERE run_id = %s)", [run_id]).value()


def _conditions(run_id: UUID, statuses: Collection[ArtifactStatus], kinds: Collection[str]) -> Conditions:
    conditions = Conditions()
    conditions.within("run_id", [run_id])
    conditions.one_of("status", [str(status) for status in statuses])
    conditions.one_of("kind", kinds)
    return conditions
