"""What can be asked of run cards."""

from collections.abc import Collection, Sequence
from uuid import UUID

from attrs import frozen

from experiment_domain.cards import RunCard
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.errors import NotFound
from experiment_domain.telemetry.store import Layer, Metrics
from experiment_domain.usecases.permits import Permit, UseCases, requires


@frozen(kw_only=True)
class SummarisedCard:
    """A card, the summary of each signal, and the tag of both; no summary where the caller has that tag already."""

    card: RunCard
    tag: str
    metrics: Sequence[Metrics] | None


class CardUseCases(UseCases):
    """Run cards."""

    @requires(Permission.READ)
    async def of_run(self, permit: Permit, run_id: UUID, *, known: Collection[str] = ()) -> SummarisedCard:
        """The card of a run, unless the caller knows it by a tag among `known`: then it is not summarised.

        Signals are summed up by their physical values, and by raw ones where there are no others and the caller may
        read them.
        """
        card = await self.uow.cards.of(run_id)
        run = await permit.holds(None if card is None else card.run, "run")
        if card is None:
            raise NotFound("run")
        raw = card.project.may_read_raw((await permit.grants()).role_in(run.project_id))
        tag = card.tag(raw=raw)
        if tag in known:
            return SummarisedCard(card=card, tag=tag, metrics=None)
        layer = None if raw else Layer.PHYSICAL
        return SummarisedCard(card=card, tag=tag, metrics=await self.uow.telemetry.metrics(run_id, layer=layer))
