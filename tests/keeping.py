"""What the suites do with units of work again and again."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import pytest

from experiment_domain.artifacts import Artifact
from experiment_domain.audit import AuditFilter, AuditRecord
from experiment_domain.captures import CaptureSession
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.experiments import Experiment
from experiment_domain.kernel.access import Principal, System
from experiment_domain.kernel.entity import Entity, Page, Position
from experiment_domain.kernel.errors import Refusal
from experiment_domain.projects import Project
from experiment_domain.runs import Run
from experiment_domain.sensors import Sensor
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from experiment_domain.webhooks.deliveries import WebhookDelivery
from experiment_domain.webhooks.subscriptions import WebhookSubscription

T = TypeVar("T")
SYSTEM = System()
ODD_TEXT = "Größe 漢字 🚀 a\u0301 \u202e ' \" \\ % _ $1 {} -- ;"


def repository(uow: UnitOfWork, entity: Entity) -> Any:
    """The repository that keeps entities of this kind."""
    return {
        Project: uow.projects,
        Experiment: uow.experiments,
        Run: uow.runs,
        CaptureSession: uow.captures,
        Artifact: uow.artifacts,
        Sensor: uow.sensors,
        ConversionProfile: uow.conversion_profiles,
        WebhookSubscription: uow.webhook_subscriptions,
        WebhookDelivery: uow.webhook_deliveries,
    }[type(entity)]


@asynccontextmanager
async def committed(units: UnitsOfWork, principal: Principal = SYSTEM) -> AsyncIterator[UnitOfWork]:
    """A unit of work that commits at the end."""
    async with units.begin(principal) as uow:
        yield uow
        await uow.commit()


async def keep(units: UnitsOfWork, *entities: Entity) -> None:
    """Add entities, in this order."""
    async with committed(units) as uow:
        for entity in entities:
            repository(uow, entity).add(entity)


async def save(units: UnitsOfWork, *entities: Entity) -> None:
    """Save changed entities."""
    async with committed(units) as uow:
        for entity in entities:
            repository(uow, entity).save(entity)


async def ask(units: UnitsOfWork, question: Callable[[UnitOfWork], Awaitable[T]]) -> T:
    """What a unit of work that only reads answers."""
    async with units.begin(SYSTEM, read_only=True) as uow:
        return await question(uow)


async def kept(units: UnitsOfWork, entity: Entity) -> Any:
    """The entity as it is kept now."""
    return await ask(units, lambda uow: repository(uow, entity).get(entity.id))


async def audit_of(units: UnitsOfWork, project_id: UUID) -> list[AuditRecord]:
    """The audit log of a project, oldest first."""
    which = AuditFilter(project_ids=[project_id])
    page = await ask(units, lambda uow: uow.audit.page(which, limit=100_000, after=None))
    return list(reversed(page.items))


@asynccontextmanager
async def refused(units: UnitsOfWork, code: str) -> AsyncIterator[UnitOfWork]:
    """A unit of work that is refused, by its commit or before."""
    with pytest.raises(Refusal) as refusal:
        async with committed(units) as uow:
            yield uow
    assert refusal.value.code == code


async def all_pages(
    fetch: Callable[[int, Position | None], Awaitable[Page[T]]], limit: int, most: int = 100
) -> list[Sequence[T]]:
    """The pages of a list, one after the other, each but the last one full."""
    pages: list[Sequence[T]] = []
    after: Position | None = None
    for _ in range(most):
        page = await fetch(limit, after)
        pages.append(page.items)
        if page.next is None:
            return pages
        assert len(page.items) == limit
        after = page.next
    raise AssertionError("the list does not end")
