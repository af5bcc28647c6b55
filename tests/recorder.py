"""A sensor that sends whatever a test likes, and everything that can be asked about what it has sent."""

from datetime import timedelta
from typing import Any

import pytest
from attrs import define

from entities import a_batch, a_column
from experiment_adapters.postgres.unit_of_work import PostgresUnitOfWork
from experiment_domain import System
from experiment_domain.captures import CaptureSession
from experiment_domain.runs import Run
from experiment_domain.telemetry.batches import Batch
from experiment_domain.telemetry.envelopes import EnvelopeQuery
from experiment_domain.telemetry.store import Layer, ReadingQuery
from experiment_domain.usecases.compaction import compact_telemetry
from experiment_domain.usecases.sensors import SensorWithToken
from laboratory import Laboratory

SYSTEM = System()
AT_ONCE = timedelta(seconds=-1)


class Near:
    """Numbers that are equal to others up to rounding."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Near) and other.numbers == pytest.approx(self.numbers, rel=1e-9, abs=1e-9, nan_ok=True)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.numbers)


@define
class Recorder:
    """A session in which a sensor sends whatever a test likes, and all that can be asked about it."""

    lab: Laboratory
    run: Run
    made: SensorWithToken
    session: CaptureSession

    @classmethod
    async def make(cls, lab: Laboratory, **profile: Any) -> "Recorder":
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        await lab.profile(made, 2, 1, **profile)
        return cls(lab, run, made, await lab.session(run))

    def batch(self, *readings: tuple[int, float], batch_id: str | None = None, signal: str = "value") -> Batch:
        stamps, values = [stamp for stamp, _ in readings], [value for _, value in readings]
        return a_batch(a_column(stamps, values, signal), session=self.session.id, batch_id=batch_id)

    async def send(self, *readings: tuple[int, float], **values: Any) -> Any:
        return await self.lab.ingest(self.made, self.batch(*readings, **values))

    async def compact(self, **how: Any) -> int:
        """As often as it takes until there is nothing more to do."""
        gone = 0
        how = {"lag": AT_ONCE, "quiet": AT_ONCE, "least": 1, **how}
        while found := await compact_telemetry(self.lab.services, lambda: False, **how):
            gone += found
        return gone

    async def told(self) -> list[Any]:
        """Everything that is answered about the series."""
        lab, session_id, sensor_id = self.lab, self.session.id, self.made.sensor.id
        series = list(await lab.ask(lambda work: work.telemetry.series(session_id)))
        answers: list[Any] = [series]
        for layer in Layer:
            for bucket in (None, 7_000_000):
                found = await lab.ask(lambda work: work.telemetry.metrics(self.run.id, layer=layer, bucket=bucket))  # noqa: B023
                answers.append([_exact(metrics) for metrics in found])
            for signal in sorted({one.signal for one in series}):
                for profile_id in {one.profile_id for one in series} if layer is Layer.PHYSICAL else {None}:
                    plain: dict[str, Any] = {
                        "capture_session_id": session_id,
                        "sensor_id": sensor_id,
                        "signal": signal,
                        "layer": layer,
                        "profile_id": profile_id,
                    }
                    query = ReadingQuery(**plain, limit=100_000)
                    read = await lab.ask(lambda work: work.telemetry.read(query, layer=layer))  # noqa: B023
                    pairs = zip(read.readings.timestamps, read.readings.values, strict=True)
                    answers.append([(stamp, repr(value)) for stamp, value in pairs])
                    for points in (1, 7, 100):
                        question = EnvelopeQuery(**plain, points=points)
                        drawn = (await lab.ask(lambda work: work.telemetry.envelope(question, layer=layer))).envelope  # noqa: B023
                        exact = (drawn.starts, drawn.ends, drawn.counts)
                        floats = (drawn.minimums, drawn.maximums, drawn.firsts, drawn.lasts)
                        answers.append(([list(part) for part in exact], [list(map(repr, part)) for part in floats]))
                        answers.append(Near(*drawn.means))
        return answers

    async def chunks(self) -> list[tuple[int, bool]]:
        """How many readings each chunk has, and whether they are late, in the order of time."""
        return await self.ask(
            "SELECT count, late FROM telemetry_chunks WHERE capture_session_id = %s ORDER BY starts_at, position"
        )

    async def ask(self, sql: str) -> list[Any]:
        async with self.lab.units.begin(SYSTEM, read_only=True) as uow:
            assert isinstance(uow, PostgresUnitOfWork)
            return await uow._statements.ask(sql, [self.session.id]).rows()  # pyright: ignore[reportPrivateUsage]


def _exact(metrics: Any) -> Any:
    """What is the same to the last bit, and what is up to rounding."""
    found = metrics.statistics
    exact = (metrics.sensor_id, metrics.signal, metrics.layer, metrics.profile_id, metrics.late, metrics.out_of_range)
    exact += (metrics.duration, metrics.timestamp)
    if found is None:
        return exact
    exact += (found.count, found.minimum, found.maximum, found.first, found.last)
    return exact, Near(found.mean, found.deviation)
