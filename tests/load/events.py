"""Events that are recorded straight in the database, at a steady pace or all at once."""

import asyncio
import time
from datetime import UTC, datetime
from uuid import UUID

from entities import fresh
from experiment_domain.events import RunTagged
from experiment_domain.kernel.events import Event, RecordedEvent
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import committed

TURN = 0.02
"""Seconds between two transactions that record events."""
SUBJECTS = [fresh() for _ in range(100)]
Committed = dict[str, float]
"""When events were committed, by their ids and the clock of the machine."""


async def record(units: UnitsOfWork, project_id: UUID, count: int) -> Committed:
    """Record events in one transaction."""
    at = datetime.now(UTC)
    said = RunTagged(tags=("nightly", "rig 7"))
    events = [
        RecordedEvent(
            id=fresh(),
            event=Event.of(said, project_id=project_id, about=SUBJECTS[number % len(SUBJECTS)], at=at),
            actor="ann",
        )
        for number in range(count)
    ]
    async with committed(units) as uow:
        uow.events.record(*events)
    return dict.fromkeys((str(event.id) for event in events), time.time())


async def record_steadily(units: UnitsOfWork, project_id: UUID, *, rate: float, seconds: float) -> Committed:
    """Record events at their time, whatever becomes of the earlier ones."""
    found: Committed = {}
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        if due := int(passed * rate) - len(found):
            found |= await record(units, project_id, due)
        await asyncio.sleep(TURN)
    return found
