"""What can be done with readings: taking them in, and reading them back."""

from array import array
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from attrs import evolve, frozen

from experiment_domain.captures import CaptureSession
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.conversions.rules import Converter
from experiment_domain.events import CaptureLateData
from experiment_domain.kernel.access import Grants, Permission
from experiment_domain.kernel.entity import Lock
from experiment_domain.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Refusal, Unauthenticated
from experiment_domain.kernel.events import Event
from experiment_domain.sensors import SIGN_OF_LIFE_EVERY, Sensor
from experiment_domain.spool import Sender, Senders
from experiment_domain.telemetry.admissions import Admissions
from experiment_domain.telemetry.batches import SIGNALS_OF_SENSOR, Batch, Column, moment
from experiment_domain.telemetry.envelopes import POINTS, Envelope, EnvelopeQuery
from experiment_domain.telemetry.grids import GridColumn, GridPage, GridQuestion, check_range
from experiment_domain.telemetry.store import (
    Admission,
    Chunk,
    Destination,
    Intake,
    Layer,
    Metrics,
    Offer,
    Presumed,
    Ran,
    ReadingQuery,
    Readings,
    Receipt,
    Series,
)
from experiment_domain.usecases.permits import Permit, UseCases, requires
from experiment_domain.usecases.recording import Recorder

Q = TypeVar("Q", ReadingQuery, EnvelopeQuery)


@frozen(kw_only=True)
class Accepted:
    """The answer to a batch: how many readings are kept, and how many of them came late."""

    capture_session_id: UUID
    accepted: int
    late: int
    duplicate: bool


@frozen(kw_only=True, eq=False)
class LayerReadings:
    """Readings, and which layer they are of."""

    layer: Layer
    profile_id: UUID | None
    readings: Readings


@frozen(kw_only=True, eq=False)
class LayerEnvelope:
    """An envelope, and which layer it is of."""

    layer: Layer
    profile_id: UUID | None
    envelope: Envelope


class TelemetryUseCases(UseCases):
    """Readings in and out."""

    def __init__(self, recorder: Recorder, converter: Converter, senders: Senders, admissions: Admissions) -> None:
        super().__init__(recorder)
        self._converter = converter
        self._senders = senders
        self._admissions = admissions

    @requires(Permission.INGEST)
    async def ingest(self, permit: Permit, batch: Batch) -> Accepted:
        """Take in a batch of the calling sensor, whole or not at all. A repeated one changes nothing."""
        (outcome,) = await self._take_in(permit.token(), [batch])
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome

    @requires(Permission.INGEST)
    async def ingest_all(self, permit: Permit, batches: Sequence[Batch]) -> Sequence[Accepted | Refusal]:
        """Take in batches that name the same session, or all none, at once: what becomes of each, as by `ingest`.

        One that is refused leaves the others as they are. Raises what stands against every batch of this sensor.
        """
        return await self._take_in(permit.token(), batches)

    @requires(Permission.WORK)
    async def ingest_at_once(self, permit: Permit, offers: Sequence[Offer]) -> Sequence[Accepted | None]:
        """Take in batches of many sensors in one transaction, as far as each needs nothing but to be kept.

        Each is judged by what admission found of its sensor before, and kept if that still holds: one question fewer.
        None for one with which more is the matter, be it a refusal: nothing has become of it, `ingest` it by itself.
        """
        permit.service()
        outcomes: list[Accepted | None] = [None] * len(offers)
        presumed: dict[int, Presumed] = {}
        taken: set[tuple[UUID, str]] = set()
        for place, offer in enumerate(offers):
            one = self._presumed(offer)
            if one is not None and (identity := (one.sensor.id, one.intake.receipt.key)) not in taken:
                taken.add(identity)
                presumed[place] = one
        kept = await self.uow.telemetry.append_presumed(list(presumed.values())) if presumed else ()
        for (place, one), is_kept in zip(presumed.items(), kept, strict=True):
            if is_kept:
                self._note_sender(offers[place].token_hash, one.sensor, one.future_tolerance)
                outcomes[place] = _accepted(one.intake.receipt, duplicate=False)
        return outcomes

    @requires(Permission.INGEST)
    async def ingest_waiting(self, permit: Permit, batches: Sequence[Batch]) -> Sequence[Accepted | Refusal]:
        """Take in batches that had to wait, as of their reception: as many of the first ones as go to one session.

        What becomes of each of these, of one at least. Raises what stands against every batch of this sensor.
        """
        first, *others = await self._named(permit.token(), batches)
        if isinstance(first, Refusal):
            return [first]
        together = [first]
        for batch in others:
            if isinstance(batch, Refusal) or batch.capture_session_id != first.capture_session_id:
                break
            together.append(batch)
        return await self._take_in(permit.token(), together)

    @requires(Permission.INGEST)
    async def check_sender(self, permit: Permit) -> None:
        """Refuse a caller of whom no batch would be taken in now: who is not known, or no sensor, or not to deliver."""
        sensor = await self.uow.sensors.get(await permit.sensor())
        if sensor is not None:
            sensor.check_delivers()

    async def _take_in(self, token: bytes, batches: Sequence[Batch]) -> list[Accepted | Refusal]:
        named = batches[0].capture_session_id
        if any(batch.capture_session_id != named for batch in batches):
            raise ValueError("batches that are taken in at once go to one session")
        keys = [batch.key for batch in batches]
        admission = await self.uow.telemetry.admit(token, named, keys, self.recorder.clock.now())
        if admission is None:
            raise Unauthenticated("This sensor token is unknown or has been rotated.")
        self._note_sender(token, admission.sensor, admission.future_tolerance)
        outcomes: list[Accepted | Refusal] = []
        intakes: list[Intake] = []
        receipts = dict(admission.repeated)
        for batch, key in zip(batches, keys, strict=True):
            try:
                known = receipts.get(key) or await self._marked(admission, batch)
                if known is not None:
                    outcomes.append(_repeated(known, batch))
                    continue
                intake = self._intake(admission, batch, key)
                _check_signals(admission, intake, intakes)
            except Refusal as refusal:
                outcomes.append(refusal)
                continue
            receipts[key] = intake.receipt
            intakes.append(intake)
            outcomes.append(_accepted(intake.receipt, duplicate=False))
        if intakes:
            self.uow.telemetry.append(*intakes)
            latest = max(intake.receipt.received_at for intake in intakes)
            await self._sign_of_life(admission, latest)
            sessions = {intake.receipt.capture_session_id for intake in intakes}
            for destination in admission.destinations:
                # Whatever signs their sensor gave elsewhere.
                if destination.run_is_due_for_a_sign and destination.capture_session_id in sessions:
                    self.recorder.sign_of_life(destination.run_id)
            await self._tell_of_late_ones(admission, intakes)
            if named is not None:
                self._admissions.note(token, named, admission, latest)
        return outcomes

    def _presumed(self, offer: Offer) -> Presumed | None:
        """A batch that is in time, for series that exist, of a sensor and a run that live: by all that was known.

        Signs of life are given by themselves: who holds that of one run would hold up the batches of all others.
        """
        admission = self._admissions.find(offer.token_hash, offer.capture_session_id)
        if admission is None or admission.may_have_marked(offer.batch.begins):
            return None
        if admission.sensor.is_due_for_a_sign(self.recorder.now):
            return None
        try:
            intake = self._intake(admission, offer.batch, offer.batch.key)
        except Refusal:
            return None
        known = _signals(admission, intake)
        if intake.is_late or any(chunk.column.signal not in known for chunk in intake.chunks):
            return None
        return Presumed(sensor=admission.sensor, future_tolerance=admission.future_tolerance, intake=intake)

    def _intake(self, admission: Admission, batch: Batch, key: str) -> Intake:
        sensor = admission.sensor
        sensor.check_delivers()
        destination = _destination(admission, batch)
        received_at = batch.received_at or self.recorder.now
        batch.check(allowed_signals=sensor.signals, latest=received_at + timedelta(seconds=admission.future_tolerance))
        is_late = destination.is_late(batch.received_at)
        receipt = Receipt(
            capture_session_id=destination.capture_session_id,
            sensor_id=sensor.id,
            key=key,
            digest=batch.digest,
            accepted=len(batch),
            late=len(batch) if is_late else 0,
            received_at=received_at,
            starts_at=None if batch.begins is None else moment(batch.begins),
        )
        return Intake(
            receipt=receipt,
            project_id=destination.project_id,
            profile_id=destination.profile.id if destination.profile else None,
            is_late=is_late,
            chunks=self._chunks(batch, destination),
        )

    async def _tell_of_late_ones(self, admission: Admission, intakes: Sequence[Intake]) -> None:
        actor = f"sensor:{admission.sensor.id}"
        runs = {destination.capture_session_id: destination.run_id for destination in admission.destinations}
        late = [_late_data(intake, runs[intake.receipt.capture_session_id]) for intake in intakes if intake.is_late]
        await self.recorder.emit(*late, actor=actor)

    @requires(Permission.READ)
    async def series(self, permit: Permit, session_id: UUID) -> Sequence[Series]:
        """Every series of a session."""
        await permit.holds(await self.uow.captures.get(session_id), "capture session")
        return await self.uow.telemetry.series(session_id)

    @requires(Permission.READ)
    async def names(self, permit: Permit, session_id: UUID) -> Sequence[tuple[UUID, str]]:
        """The sensor and signal of every series of a session, for those who only want to know which there are."""
        await permit.holds(await self.uow.captures.get(session_id), "capture session")
        return await self.uow.telemetry.names(session_id)

    @requires(Permission.READ)
    async def read(self, permit: Permit, query: ReadingQuery, *, layer: Layer | None) -> LayerReadings:
        """Readings of one series. Without a `layer`: physical values where there are any, else raw ones."""
        check_range(query.start, query.end)
        query = await self._layered(permit, query, layer)
        found = await self.uow.telemetry.read(query)
        return LayerReadings(layer=query.layer, profile_id=query.profile_id, readings=found)

    @requires(Permission.READ)
    async def envelope(self, permit: Permit, query: EnvelopeQuery, *, layer: Layer | None) -> LayerEnvelope:
        """The envelope of one series, in the layer that `read` would give."""
        if not 1 <= query.points <= POINTS:
            raise Invalid.at("points", f"must be 1 to {POINTS:,}")
        check_range(query.start, query.end)
        query = await self._layered(permit, query, layer)
        found = await self.uow.envelopes.read(query)
        return LayerEnvelope(layer=query.layer, profile_id=query.profile_id, envelope=found)

    @requires(Permission.READ)
    async def grid(
        self, permit: Permit, run_id: UUID, question: GridQuestion, *, columns: Sequence[GridColumn] | None = None
    ) -> GridPage:
        """Series of a run at the same moments, in pages; what is left out is found where the readings lie.

        The `columns` of a page before keep those that follow the same, whatever is recorded or converted meanwhile.
        """
        run = await permit.holds(await self.uow.runs.get(run_id), "run")
        question.check()
        grants = await permit.grants()
        if question.layer is Layer.RAW or any(column.layer is Layer.RAW for column in columns or ()):
            await self._require_raw(grants, run.project_id)
        if columns is None:
            raw_allowed = await self._raw_allowed(grants, run.project_id)
            columns = question.columns(await self.uow.grids.sources(run_id), raw_allowed=raw_allowed)
        else:
            sessions = {session.id for session in await self.uow.captures.of_runs([run_id])}
            if not all(source.capture_session_id in sessions for column in columns for source in column.sources):
                raise NotFound("series")
        query, following = question.page(columns)
        values = [await self.uow.grids.column(column, query) if query.rows else array("d") for column in columns]
        return GridPage(columns=columns, query=query, values=values, following=following)

    async def _layered(self, permit: Permit, query: Q, layer: Layer | None) -> Q:
        """The query of the layer that is meant, if the series is known and the caller may read it."""
        session = await permit.holds(await self.uow.captures.get(query.capture_session_id), "capture session")
        exists, current = await self.uow.telemetry.layer_of(session.id, query.sensor_id, query.signal)
        if layer is Layer.RAW and query.profile_id is not None:
            raise Invalid("Raw values have no conversion profile.", code="raw_has_no_profile")
        if not exists:
            await self._check_known(session, query)
        chosen = query.profile_id or current
        if layer is None:
            layer = Layer.PHYSICAL if chosen or not await self._may_read_raw(permit, session) else Layer.RAW
        if layer is Layer.RAW:
            await self._check_raw(permit, session)
            return evolve(query, layer=layer, profile_id=None)
        if query.profile_id is not None and not await self.uow.telemetry.has_layer(
            session.id, query.sensor_id, query.signal, query.profile_id
        ):
            raise NotFound("physical layer under this profile")
        return evolve(query, layer=layer, profile_id=chosen)

    @requires(Permission.READ)
    async def metrics(
        self,
        permit: Permit,
        run_id: UUID,
        *,
        layer: Layer | None = None,
        signals: Collection[str] = (),
        bucket: int | None = None,
    ) -> Sequence[Metrics]:
        """Statistics per sensor and signal of a run; with `bucket`, in microseconds, by buckets of that width.

        Without a `layer`: of physical values, and beside them of the raw values of series that have no physical
        ones, if the caller may read raw values.
        """
        run = await permit.holds(await self.uow.runs.get(run_id), "run")
        grants = await permit.grants()
        if layer is Layer.RAW:
            await self._require_raw(grants, run.project_id)
        elif layer is None and not await self._raw_allowed(grants, run.project_id):
            layer = Layer.PHYSICAL
        return await self.uow.telemetry.metrics(run_id, layer=layer, signals=signals, bucket=bucket)

    def _chunks(self, batch: Batch, destination: Destination) -> list[Chunk]:
        profile = destination.profile
        return [
            Chunk(
                column=layer,
                physical=None if profile is None else self._converted(profile, layer),
                others={other.id: self._converted(other, layer) for other in destination.others},
            )
            for column in batch.columns
            if len(column)
            for layer in column.layers()
        ]

    async def _marked(self, admission: Admission, batch: Batch) -> Receipt | None:
        """The receipt of a batch that came long ago. One that begins behind all such ones is none of them."""
        if not admission.may_have_marked(batch.begins):
            return None
        return await self.uow.telemetry.marked(admission.sensor.id, batch)

    def _converted(self, profile: ConversionProfile, column: Column) -> "array[float]":
        return self._converter.convert(profile.rule, column.values, profile.valid_range)

    async def _named(self, token_hash: bytes, batches: Sequence[Batch]) -> list[Batch | Refusal]:
        """Batches for sessions: those that name none are for the one that was the sensor's only running one then."""
        moments = [batch.received_at for batch in batches if batch.capture_session_id is None and batch.received_at]
        if not moments:
            return list(batches)
        now = self.recorder.clock.now()
        ran = await self.uow.telemetry.ran_between(token_hash, min(moments), max(moments), now)
        if not ran:
            await self.recorder.grants()  # whose token is not known any more is told that
        return [_named(batch, ran) for batch in batches]

    def _note_sender(self, token_hash: bytes, sensor: Sensor, future_tolerance: float) -> None:
        sender = Sender(sensor_id=sensor.id, signals=sensor.signals, future_tolerance=future_tolerance)
        self._senders.note(token_hash, sender, self.recorder.clock.now())

    async def _sign_of_life(self, admission: Admission, at: datetime) -> None:
        """The sensor is alive."""
        sensor, now = admission.sensor, self.recorder.now
        if not sensor.seen(at=now).is_empty:
            # Admission holds the batch and the session, not the sensor: another batch may be the first one as well.
            held = await self.uow.sensors.get(sensor.id, Lock.UPDATE)
            sensor = sensor if held is None else held
            sensor.check_delivers()
        if sensor.is_due_for_a_sign(at):
            # Of batches that find it due at the same moment, one gives the sign.
            self.uow.sensors.renew_sign_of_life(sensor.id, at, unless_since=at - SIGN_OF_LIFE_EVERY)
        await self.recorder.keep(self.uow.sensors, sensor.seen(at=now), "sensor", "activate")

    async def _check_known(self, session: CaptureSession, query: ReadingQuery | EnvelopeQuery) -> None:
        """A series that has no readings yet is empty; one that can never have any is not found."""
        pin = session.pin_of(query.sensor_id)
        sensor = None if pin is None else await self.uow.sensors.get(query.sensor_id)
        if sensor is None or (sensor.signals and query.signal not in sensor.signals):
            raise NotFound("series")

    async def _may_read_raw(self, permit: Permit, session: CaptureSession) -> bool:
        return await self._raw_allowed(await permit.grants(), session.project_id)

    async def _check_raw(self, permit: Permit, session: CaptureSession) -> None:
        await self._require_raw(await permit.grants(), session.project_id)

    async def _raw_allowed(self, grants: Grants, project_id: UUID) -> bool:
        project = await self.uow.projects.get(project_id)
        return project is not None and project.may_read_raw(grants.role_in(project_id))

    async def _require_raw(self, grants: Grants, project_id: UUID) -> None:
        if not await self._raw_allowed(grants, project_id):
            raise Forbidden("This project's policy does not let you read raw values.", "raw_not_allowed")


def _repeated(receipt: Receipt, batch: Batch) -> Accepted:
    if receipt.digest != batch.digest:
        raise Conflict("batch_id_reused", "A batch with this batch_id and other readings was accepted before.")
    return _accepted(receipt, duplicate=True)


def _accepted(receipt: Receipt, *, duplicate: bool) -> Accepted:
    return Accepted(
        capture_session_id=receipt.capture_session_id,
        accepted=receipt.accepted,
        late=receipt.late,
        duplicate=duplicate,
    )


def _named(batch: Batch, ran: Sequence[Ran]) -> Batch | Refusal:
    if batch.capture_session_id is not None or batch.received_at is None:
        return batch
    found = [session.capture_session_id for session in ran if session.ran_at(batch.received_at)]
    if len(found) == 1:
        return evolve(batch, capture_session_id=found[0])
    if found:
        return Conflict("ambiguous_session", "This sensor took part in several running capture sessions.")
    return Conflict("no_running_session", "This sensor took part in no running capture session.")


def _destination(admission: Admission, batch: Batch) -> Destination:
    found = admission.destinations
    if batch.capture_session_id is not None:
        if not found:
            raise NotFound("capture session")
        # A draft has no pins yet, so that nobody takes part: it is refused for what it is.
        if not found[0].takes_part and found[0].status != "draft":
            raise Conflict("sensor_not_in_session", "This sensor was not bound to the run when the session started.")
    elif not found:
        raise Conflict("no_running_session", "This sensor takes part in no running capture session.")
    elif len(found) > 1:
        raise Conflict(
            "ambiguous_session",
            "This sensor takes part in several running capture sessions: name one.",
            running_capture_sessions=[
                str(destination.capture_session_id)
                for destination in found
                if destination.project_id == admission.sensor.project_id
            ],
        )
    return found[0]


def _signals(admission: Admission, intake: Intake) -> frozenset[str]:
    """Those that the sensor has delivered in the session by now."""
    session_id = intake.receipt.capture_session_id
    return next(found.signals for found in admission.destinations if found.capture_session_id == session_id)


def _check_signals(admission: Admission, intake: Intake, before: Sequence[Intake]) -> None:
    """Refuse a batch that would give its session too many signals of its sensor, with those taken in `before` it."""
    known = _signals(admission, intake)
    new = {chunk.column.signal for one in (*before, intake) for chunk in one.chunks} - known
    if new and len(known) + len(new) > SIGNALS_OF_SENSOR:
        raise Invalid.at("readings", f"a sensor delivers at most {SIGNALS_OF_SENSOR:,} signals in one capture session")


def _late_data(intake: Intake, run_id: UUID) -> Event:
    receipt = intake.receipt
    said = CaptureLateData(run_id=run_id, sensor_id=receipt.sensor_id, readings=receipt.late)
    return Event.of(said, project_id=intake.project_id, about=receipt.capture_session_id, at=receipt.received_at)
