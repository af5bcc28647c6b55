"""Relaying: the log of events is read on and on, and handed to a sink."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

from attrs import define, field

from experiment_domain.kernel.access import System
from experiment_domain.kernel.errors import Conflict
from experiment_domain.kernel.news import EVENTS
from experiment_domain.relays import EventSink
from experiment_domain.usecases.services import Services

AT_ONCE = 500
"""The most events that are handed on in one go."""
LOOKS_EVERY = 4.0
"""Seconds between two looks for new events, and for the lead, where there is no news."""
TIDIES_EVERY = 60.0
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds to wait after one failure, two in a row, and so on."""


async def lag(services: Services, sink: str) -> timedelta:
    """How old the oldest event is that has not arrived in a sink. Raises `Conflict` where its place is lost."""
    async with services.units_of_work.begin(System()) as uow:
        part = await uow.events.since(await uow.relays.of(sink), limit=1)
        await uow.commit()
    waiting = [placed.recorded.event.at for placed in part.events]
    return max([services.clock.now() - at for at in waiting], default=timedelta())


class RelayWatcher(Protocol):
    """Hears how a relay gets on."""

    @abstractmethod
    def relayed(self, sink: str, count: int) -> object:
        """Events have arrived."""

    @abstractmethod
    def held_up(self, sink: str, error: Exception) -> object:
        """The sink, the database or the program failed; it is tried again."""


@define
class Relay:
    """Carries events to one sink. Each of its steps can be broken off anywhere, by the end of its process too.

    The place in the log is kept after the events behind it have arrived: what was on its way then is sent again. Where
    two relays serve one sink, each sends an unbroken stretch of each subject, beginning where everything before has
    arrived: the first arrivals are in order, whatever comes again in between.
    """

    services: Services
    name: str
    sink: EventSink
    at_once: int = AT_ONCE
    _kept: str | None = field(default=None, init=False)
    _place: str | None = field(default=None, init=False)
    _is_lost: bool = field(default=True, init=False)
    _tidied_at: float = field(default=float("-inf"), init=False)

    async def step(self) -> tuple[int, bool]:
        """Hand on the next events, if there are any: how many, and whether there are more.

        Raises `SinkAway`; `VersionMismatch` where another relay serves the sink; `Conflict` (`place_lost`) where the
        log has been restored from an older copy.
        """
        if self._is_lost:
            async with self.services.units_of_work.begin(System()) as uow:
                self._kept = self._place = await uow.relays.of(self.name)
            self._is_lost = False
        # Not `read_only`: a replica may be behind, and its snapshots tell no places.
        async with self.services.units_of_work.begin(System()) as uow:
            part = await uow.events.since(self._place, limit=self.at_once)
            await uow.commit()  # a rollback would make the driver forget what it has prepared
        if part.events:
            await self.sink.publish([placed.recorded for placed in part.events])
            await self._advance(part.place)
        self._place = part.place
        return len(part.events), part.more

    async def run(self, *, leads: Callable[[], Awaitable[bool]], watcher: RelayWatcher) -> None:
        """Relay until this is cancelled, while this process `leads`."""
        failures = 0
        with self.services.units_of_work.news.of(EVENTS) as hints:
            while True:
                try:
                    more = await leads() and await self._relay(watcher)
                    failures = 0
                    if not more:
                        await hints.wait(LOOKS_EVERY)
                except Exception as error:  # noqa: BLE001 - whatever it is, the events are still there
                    watcher.held_up(self.name, error)
                    self._is_lost = True
                    if isinstance(error, Conflict) and error.code == "place_lost":
                        self._is_lost, self._place = False, None  # rather all of it again than less than all
                    await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
                    failures += 1

    async def _relay(self, watcher: RelayWatcher) -> bool:
        """One step, and tidying now and then; whether there are more events."""
        count, more = await self.step()
        if count:
            watcher.relayed(self.name, count)
        if not more and time.monotonic() - self._tidied_at > TIDIES_EVERY:
            await self.sink.tidy()
            self._tidied_at = time.monotonic()
        return more

    async def _advance(self, place: str) -> None:
        async with self.services.units_of_work.begin(System()) as uow:
            uow.relays.advance(self.name, self._kept, place)
            await uow.commit()
        self._kept = place
