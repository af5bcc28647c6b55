"""What can be done with scalar metrics."""

from collections.abc import Sequence
from uuid import UUID

from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, refuse_archived
from experiment_domain.kernel.values import checked_name
from experiment_domain.scalars import Logged, Place, Scalar, ScalarPage, checked, numbered
from experiment_domain.usecases.permits import Permit, UseCases, requires


class ScalarUseCases(UseCases):
    """Scalar metrics of runs. They are results, and not raw values: whoever may read the run may read them."""

    @requires(Permission.EDIT)
    async def log(self, permit: Permit, run_id: UUID, values: Sequence[Logged]) -> Sequence[Scalar]:
        """Keep values of a run in whatever status but archived; all of them are kept, also of one name and step."""
        run = await permit.holds(await self.uow.runs.get(run_id, Lock.SHARE), "run")
        checked(values)
        refuse_archived("run", run.status)
        names = sorted({value.name for value in values})
        known = await self.uow.scalars.hold(run_id, names)
        scalars = numbered(values, known, self.recorder.now)
        self.uow.scalars.append(run_id, scalars)
        self.recorder.sign_of_life(run_id)
        await self.recorder.audit(
            "run", str(run_id), run.project_id, "log_metrics", after={"values": len(scalars), "names": names[:20]}
        )
        return scalars

    @requires(Permission.READ)
    async def history(
        self, permit: Permit, run_id: UUID, names: Sequence[str], *, limit: int = 1_000, after: Place | None = None
    ) -> ScalarPage:
        """The values of some names, oldest first: by step, of one step by name, then as they were received."""
        await permit.holds(await self.uow.runs.get(run_id), "run")
        for name in names:
            checked_name("name", name)
        return await self.uow.scalars.history(run_id, frozenset(names), limit=limit, after=after)

    @requires(Permission.READ)
    async def latest(self, permit: Permit, run_id: UUID) -> Sequence[Scalar]:
        """By name the value of the highest step, and of that step the last one received."""
        await permit.holds(await self.uow.runs.get(run_id), "run")
        return (await self.uow.scalars.latest([run_id])).get(run_id, ())
