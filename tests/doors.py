"""A database that goes away while others use it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from experiment_domain.kernel.access import Principal
from experiment_domain.kernel.errors import Unavailable
from experiment_domain.kernel.news import News
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork


class Door(UnitsOfWork):
    """A way to the database that can be shut, and that can lose the answer to a commit."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units
        self.is_shut = False
        self.loses_answers = False
        self.asked = 0

    @property
    def news(self) -> News:
        return self._units.news

    @asynccontextmanager
    async def begin(self, principal: Principal, *, read_only: bool = False) -> AsyncGenerator[UnitOfWork]:
        self.asked += 1
        if self.is_shut:
            raise Unavailable
        async with self._units.begin(principal, read_only=read_only) as uow:
            yield uow
        if self.loses_answers:
            raise Unavailable

    async def check(self) -> None:
        """What readiness asks."""
        if self.is_shut:
            raise Unavailable
