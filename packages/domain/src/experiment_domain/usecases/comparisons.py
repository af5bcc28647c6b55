"""Comparison: several runs side by side."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from attrs import frozen

from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.errors import Forbidden, Invalid
from experiment_domain.kernel.values import checked_ids, same
from experiment_domain.runs import Run
from experiment_domain.scalars import Scalar
from experiment_domain.telemetry.store import Layer, Metrics
from experiment_domain.usecases.permits import Permit, UseCases, requires

COMPARED_RUNS = 20
"""How many runs are compared at most."""


@frozen(kw_only=True)
class ComparedRun:
    """One of several runs: those of its params in which they differ, its statistics, and its latest scalar metrics."""

    run: Run
    params: Mapping[str, Any]
    metrics: Sequence[Metrics]
    scalars: Sequence[Scalar]


class ComparisonUseCases(UseCases):
    """Comparison of runs."""

    @requires(Permission.READ)
    async def of_runs(
        self,
        permit: Permit,
        run_ids: Sequence[UUID],
        *,
        layer: Layer | None = None,
        signals: Collection[str] = (),
    ) -> Sequence[ComparedRun]:
        """Several runs, in the order in which they are named; all of them must be such as the caller may know of.

        Without a `layer`: by their physical values, and by raw ones of series that have no others, where the policy of
        the run's own project lets the caller read those.
        """
        checked_ids("run_id", run_ids, most=COMPARED_RUNS)
        if len(run_ids) < 2:
            raise Invalid.at("run_id", f"2 to {COMPARED_RUNS} runs are compared, not one")
        found = await self.uow.runs.several(run_ids)
        runs = [await permit.holds(found.get(run_id), "run") for run_id in run_ids]
        raw = await self._raw_allowed(permit, {run.project_id for run in runs})
        if layer is Layer.RAW and not all(raw[run.project_id] for run in runs):
            raise Forbidden("The policy of a run's project does not let you read raw values.", "raw_not_allowed")
        layers = {run.id: layer or (None if raw[run.project_id] else Layer.PHYSICAL) for run in runs}
        metrics = await self.uow.telemetry.metrics_of_runs(layers, signals=signals)
        scalars = await self.uow.scalars.latest(run_ids)
        differing = _differing([run.params for run in runs])
        return [
            ComparedRun(
                run=run,
                params={key: value for key, value in run.params.items() if key in differing},
                metrics=metrics.get(run.id, ()),
                scalars=scalars.get(run.id, ()),
            )
            for run in runs
        ]

    async def _raw_allowed(self, permit: Permit, project_ids: Collection[UUID]) -> Mapping[UUID, bool]:
        grants = await permit.grants()
        projects = await self.uow.projects.page(project_ids, limit=len(project_ids), after=None)
        allowed = dict.fromkeys(project_ids, False)
        for project in projects.items:
            allowed[project.id] = project.may_read_raw(grants.role_in(project.id))
        return allowed


def _differing(params: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys that not all have, or not with the same value."""
    keys = {key for one in params for key in one}
    return {key for key in keys if any(key not in one or not same(one[key], params[0].get(key)) for one in params)}
