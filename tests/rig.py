"""A running session with one sensor, whose readings are kept and read through the ports alone."""

from collections.abc import Sequence
from typing import Any

import pytest
from attrs import frozen

from entities import (
    NOW,
    a_batch,
    a_column,
    a_profile,
    a_project,
    a_run,
    a_sensor,
    a_session,
    an_experiment,
    fresh,
    later,
)
from experiment_domain.captures import CaptureSession, CaptureStatus, Pin
from experiment_domain.conversions.profiles import ConversionProfile, ProfileStatus
from experiment_domain.conversions.rules import Linear, ScalarConverter, ValidRange
from experiment_domain.projects import Project
from experiment_domain.runs import Run
from experiment_domain.sensors import Sensor
from experiment_domain.telemetry.batches import Batch, Column, micros
from experiment_domain.telemetry.envelopes import Envelope, EnvelopeQuery
from experiment_domain.telemetry.statistics import Statistics
from experiment_domain.telemetry.store import Admission, Chunk, Intake, Layer, Metrics, ReadingQuery, Receipt, Series
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ask, committed, keep, save

T0 = micros(NOW)
SECOND = 1_000_000


@frozen(kw_only=True)
class Rig:
    """A running session with one sensor, whose readings are doubled and increased by one from 0 to 100."""

    units: UnitsOfWork
    project: Project
    run: Run
    session: CaptureSession
    sensor: Sensor
    profile: ConversionProfile

    @classmethod
    async def build(cls, units: UnitsOfWork, *, with_profile: bool = True, **project_values: Any) -> "Rig":
        project = a_project(**project_values)
        experiment = an_experiment(project)
        run, sensor = a_run(experiment), a_sensor(project)
        profile = a_profile(
            sensor, rule=Linear(2.0, 1.0), valid_range=ValidRange(0.0, 100.0), status=ProfileStatus.PUBLISHED
        )
        pin = Pin(
            sensor_id=sensor.id,
            profile_id=profile.id if with_profile else None,
            profile_version=1 if with_profile else None,
        )
        session = a_session(run, status=CaptureStatus.RUNNING, pins=(pin,))
        await keep(units, project, experiment, run, sensor, profile, session)
        return cls(units=units, project=project, run=run, session=session, sensor=sensor, profile=profile)

    async def admit(self, batch: Batch, at: Any = NOW) -> Admission | None:
        async with committed(self.units) as uow:
            return await uow.telemetry.admit(self.sensor.token_hash, batch.capture_session_id, [batch.key], at)

    def intake(self, batch: Batch, session: CaptureSession, *, late: bool = False, at: Any = NOW) -> Intake:
        """The batch as the use case hands it on."""
        pin = session.pin_of(self.sensor.id)
        assert pin is not None
        converted = pin.profile_id is not None
        receipt = Receipt(
            capture_session_id=session.id,
            sensor_id=self.sensor.id,
            key=batch.key,
            digest=batch.digest,
            accepted=len(batch),
            late=len(batch) if late else 0,
            received_at=at,
        )
        chunks = [
            Chunk(
                column=layer,
                physical=ScalarConverter().convert(self.profile.rule, layer.values, self.profile.valid_range)
                if converted
                else None,
            )
            for column in batch.columns
            for layer in column.layers()
        ]
        return Intake(
            receipt=receipt, project_id=session.project_id, profile_id=pin.profile_id, is_late=late, chunks=chunks
        )

    async def deliver(
        self, *columns: Column, late: bool = False, session: CaptureSession | None = None, at: Any = NOW
    ) -> None:
        """Keep a batch of its own."""
        batch = a_batch(*columns, batch_id=str(fresh()))
        async with committed(self.units) as uow:
            assert await uow.telemetry.admit(self.sensor.token_hash, self.session.id, [batch.key], at) is not None
            uow.telemetry.append(self.intake(batch, session or self.session, late=late, at=at))

    async def read(self, layer: Layer = Layer.RAW, limit: int = 1_000, **values: Any) -> list[tuple[int, float]]:
        query = ReadingQuery(
            **{
                "capture_session_id": self.session.id,
                "sensor_id": self.sensor.id,
                "signal": "value",
                "layer": layer,
                "profile_id": self.profile.id if layer is Layer.PHYSICAL else None,
                "limit": limit,
                **values,
            }
        )
        found = await ask(self.units, lambda uow: uow.telemetry.read(query))
        assert (found.timestamps.typecode, found.values.typecode) == ("q", "d")
        assert not found.more
        return list(zip(found.timestamps, found.values, strict=True))

    async def series(self) -> list[Series]:
        return list(await ask(self.units, lambda uow: uow.telemetry.series(self.session.id)))

    async def only_series(self) -> Series:
        (found,) = await self.series()
        return found

    async def metrics(
        self, layer: Layer | None, signals: Sequence[str] = (), bucket: int | None = None
    ) -> list[Metrics]:
        return list(
            await ask(
                self.units,
                lambda uow: uow.telemetry.metrics(self.run.id, layer=layer, signals=signals, bucket=bucket),
            )
        )

    def envelope_query(self, points: int, layer: Layer = Layer.RAW, **values: Any) -> EnvelopeQuery:
        return EnvelopeQuery(
            **{
                "capture_session_id": self.session.id,
                "sensor_id": self.sensor.id,
                "signal": "value",
                "layer": layer,
                "profile_id": self.profile.id if layer is Layer.PHYSICAL else None,
                "points": points,
                **values,
            }
        )

    async def envelope(self, points: int, layer: Layer = Layer.RAW, **values: Any) -> Envelope:
        query = self.envelope_query(points, layer, **values)
        return await ask(self.units, lambda uow: uow.envelopes.read(query))

    async def stopped(self) -> CaptureSession:
        stopped = self.session.stop(CaptureStatus.SUCCEEDED, at=later(60)).result
        await save(self.units, stopped)
        return stopped


def check_statistics(found: Statistics | None, values: Sequence[float]) -> None:
    """Fail unless statistics are those of values, exactly where sums are not concerned."""
    expected = Statistics.of(values)
    if expected is None or found is None:
        assert found is expected
        return
    assert (found.count, found.minimum, found.maximum) == (expected.count, expected.minimum, expected.maximum)
    assert (found.first, found.last) == (expected.first, expected.last)
    scale = max(abs(expected.minimum), abs(expected.maximum))
    assert found.mean == pytest.approx(expected.mean, rel=1e-9, abs=max(1e-12 * scale, 5e-324))
    assert found.deviation == pytest.approx(expected.deviation, rel=1e-9, abs=max(1e-7 * scale, 5e-324))


def column_of(readings: Sequence[tuple[int, float]], signal: str = "value") -> Column:
    return a_column([stamp for stamp, _ in readings], [value for _, value in readings], signal)
