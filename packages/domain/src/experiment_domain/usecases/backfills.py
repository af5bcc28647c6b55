"""What can be done with backfills: by people, who ask for them, and by the service, which works them off."""

from array import array
from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from attrs import frozen

from experiment_domain.backfills import CLAIM_LASTS, Backfill, BackfillStatus, check_convertible
from experiment_domain.captures import CaptureSession
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.conversions.rules import Converter
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, Page, Position, StatusChange
from experiment_domain.kernel.errors import Conflict, NotFound
from experiment_domain.telemetry.layers import LayerName, PhysicalChunk, Portion, RawChunk
from experiment_domain.usecases.permits import Permit, UseCases, requires
from experiment_domain.usecases.recording import Recorder

NOUN = "backfill"
USUAL = Portion()


@frozen(kw_only=True)
class Requested:
    """The backfill that does what was asked for, and whether it is a new one."""

    backfill: Backfill
    is_new: bool


class BackfillUseCases(UseCases):
    """Backfills. Who makes one active holds run, session and sensor first: they are not put away meanwhile.

    `claim`, `step` and `stumble` are for the service itself, each a unit of work: see `work_off_backfills`.
    """

    def __init__(self, recorder: Recorder, converter: Converter) -> None:
        super().__init__(recorder)
        self._converter = converter

    @requires(Permission.EDIT)
    async def request(self, permit: Permit, session_id: UUID, *, profile_id: UUID, sensor_id: UUID) -> Requested:
        """Have a sensor's readings in a session converted by another profile version.

        What is queued, running, or done and still current is not done again.
        """
        session = await self._hold(permit, session_id, sensor_id)
        check_convertible(session)
        latest = await self.uow.backfills.latest(session_id, sensor_id, profile_id)
        if latest is not None and (latest.is_active or await self._is_current(latest)):
            return Requested(backfill=latest, is_new=False)
        change = Backfill.request(
            backfill_id=self.recorder.ids.new(),
            session=session,
            sensor_id=sensor_id,
            profile=await self.uow.conversion_profiles.get(profile_id),
            at=self.recorder.now,
            by=(await permit.grants()).actor,
        )
        return Requested(
            backfill=await self.recorder.keep(self.uow.backfills, change, NOUN, "backfill"),
            is_new=True,
        )

    @requires(Permission.READ)
    async def get(self, permit: Permit, backfill_id: UUID) -> Backfill:
        """One backfill, with its progress."""
        return await permit.holds(await self.uow.backfills.get(backfill_id), NOUN)

    @requires(Permission.READ)
    async def page(
        self,
        permit: Permit,
        session_id: UUID,
        *,
        statuses: Collection[BackfillStatus] = (),
        limit: int = 50,
        after: Position | None = None,
    ) -> Page[Backfill]:
        """The backfills of a session, newest first."""
        await permit.holds(await self.uow.captures.get(session_id), "capture session")
        return await self.uow.backfills.page(session_id, statuses=statuses, limit=limit, after=after)

    @requires(Permission.EDIT)
    async def cancel(
        self, permit: Permit, backfill_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Backfill:
        """queued or running → cancelled: the current layer stays as it is."""
        backfill = await self._locked(permit, backfill_id, if_version)
        change = backfill.cancel(at=self.recorder.now, reason=reason)
        return await self.recorder.keep(self.uow.backfills, change, NOUN, "cancel", reason=reason)

    @requires(Permission.EDIT)
    async def retry(
        self, permit: Permit, backfill_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Backfill:
        """failed → queued: it goes on where it was, unless another one does the same by now."""
        found = await permit.holds(await self.uow.backfills.get(backfill_id), NOUN)
        session = await self._hold(permit, found.capture_session_id, found.sensor_id)
        backfill = await self._locked(permit, backfill_id, if_version)
        change = backfill.retry(at=self.recorder.now)
        if not change.is_empty:
            check_convertible(session)
            latest = await self.uow.backfills.latest(session.id, backfill.sensor_id, backfill.profile_id)
            if latest is not None and latest.id != backfill_id and latest.is_active:
                raise Conflict("active_backfills", "Another backfill does the same.", active_backfills=[str(latest.id)])
        kept = await self.recorder.keep(self.uow.backfills, change, NOUN, "retry", reason=reason)
        if not change.is_empty:
            self.uow.backfills.release(backfill_id)
        return kept

    @requires(Permission.READ)
    async def history(self, permit: Permit, backfill_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first."""
        await permit.holds(await self.uow.backfills.get(backfill_id), NOUN)
        return await self.uow.history.of(NOUN, backfill_id)

    @requires(Permission.WORK)
    async def claim(self, permit: Permit, worker: UUID, *, lasting: timedelta = CLAIM_LASTS) -> Backfill | None:
        """The backfill that waits longest, for `worker` alone; None where there is nothing to do.

        One that many workers have vanished over is handed out once more, as failed.
        """
        permit.service()
        claim = await self.uow.backfills.claim(worker, lasting)
        if claim is None:
            return None
        backfill = claim.backfill
        if backfill.status is BackfillStatus.QUEUED:
            total = await self.uow.layers.chunks(backfill.capture_session_id, backfill.sensor_id)
            change = backfill.take_up(chunks_total=total, at=self.recorder.now)
            return await self.recorder.keep(self.uow.backfills, change, NOUN, "start")
        if not claim.was_lost:
            return backfill
        change = backfill.take_over(at=self.recorder.now)
        if change.result.status is BackfillStatus.FAILED:
            self.uow.backfills.release(backfill.id)
            reason = change.result.error
            return await self.recorder.keep(self.uow.backfills, change, NOUN, "fail", reason=reason)
        return await self.recorder.keep(self.uow.backfills, change, NOUN, "take_over")

    @requires(Permission.WORK)
    async def step(
        self,
        permit: Permit,
        backfill: Backfill,
        worker: UUID,
        *,
        portion: Portion = USUAL,
        lasting: timedelta = CLAIM_LASTS,
    ) -> Backfill | None:
        """Convert the next chunks, and with the last of them make the layer current.

        The backfill as it is afterwards, running or succeeded; None where it was cancelled or claimed by another.
        """
        permit.service()
        if backfill.is_swept:
            return await self._complete(backfill.id, worker, portion, lasting)
        held = await self.uow.backfills.claimed(backfill.id, worker)
        if held is None or held.is_swept:
            return held
        layer = _layer_of(held)
        part = await self.uow.layers.sweep(layer, portion, held.place)
        readings = await self._convert(layer, part.missing)
        held = held.advance(seen=part.seen, readings=readings, place=part.next)
        self.uow.backfills.renew(held, worker, lasting)
        return held

    @requires(Permission.WORK)
    async def stumble(self, permit: Permit, backfill_id: UUID, worker: UUID, error: str) -> Backfill | None:
        """Note that a step failed: it is tried again after a pause, or has failed. None where the claim was lost."""
        permit.service()
        backfill = await self.uow.backfills.claimed(backfill_id, worker)
        if backfill is None:
            return None
        change = backfill.stumble(error, at=self.recorder.now)
        after = change.result
        action = "fail" if after.status is BackfillStatus.FAILED else "requeue"
        kept = await self.recorder.keep(self.uow.backfills, change, NOUN, action, reason=after.error)
        self.uow.backfills.release(backfill_id, after.pause)
        return kept

    @requires(Permission.WORK)
    async def leave(self, permit: Permit, backfill_id: UUID, worker: UUID) -> None:
        """Give a claim back, for another worker to go on at once."""
        permit.service()
        if await self.uow.backfills.claimed(backfill_id, worker) is not None:
            self.uow.backfills.release(backfill_id)

    async def _complete(self, backfill_id: UUID, worker: UUID, portion: Portion, lasting: timedelta) -> Backfill | None:
        """Convert what came during the sweep, with the session held against batches, and make the layer current."""
        found = await self.uow.backfills.get(backfill_id)
        if found is None:
            return None
        # The session first, as everybody does: from here on no batch can come in between.
        await self.uow.captures.get(found.capture_session_id, Lock.UPDATE, deleted=True)
        held = await self.uow.backfills.claimed(backfill_id, worker)
        if held is None:
            return None
        layer = _layer_of(held)
        part = await self.uow.layers.missing(layer, portion)
        readings = await self._convert(layer, part.missing)
        if part.next is not None:
            held = held.advance_late(readings=readings)
            self.uow.backfills.renew(held, worker, lasting)
            return held
        before = await self.uow.layers.current(layer.capture_session_id, layer.sensor_id)
        self.uow.layers.make_current(layer)
        chunks = await self.uow.layers.chunks(layer.capture_session_id, layer.sensor_id)
        change = held.succeed(chunks=chunks, readings=readings, at=self.recorder.now)
        kept = await self.recorder.keep(self.uow.backfills, change, NOUN, "finish")
        if before != layer.profile_id:
            profile = await self._profile(layer)
            await self.recorder.emit(held.applied(profile, instead_of=before, at=self.recorder.now))
        self.uow.backfills.release(held.id)
        return kept

    async def _convert(self, layer: LayerName, chunks: Sequence[RawChunk]) -> int:
        """Convert chunks, all in one go, and tell how many readings they have."""
        if not chunks:
            return 0
        profile = await self._profile(layer)
        raw = array("d")
        for chunk in chunks:
            raw.extend(chunk.values)
        physical = self._converter.convert(profile.rule, raw, profile.valid_range)
        converted: list[PhysicalChunk] = []
        start = 0
        for chunk in chunks:
            end = start + len(chunk.values)
            converted.append(PhysicalChunk(place=chunk.place, values=physical[start:end]))
            start = end
        self.uow.layers.add(layer, converted)
        return start

    async def _profile(self, layer: LayerName) -> ConversionProfile:
        profile = await self.uow.conversion_profiles.get(layer.profile_id)
        if profile is None:
            raise NotFound("conversion profile")
        return profile

    async def _is_current(self, backfill: Backfill) -> bool:
        if backfill.status is not BackfillStatus.SUCCEEDED:
            return False
        current = await self.uow.layers.current(backfill.capture_session_id, backfill.sensor_id)
        return current == backfill.profile_id

    async def _hold(self, permit: Permit, session_id: UUID, sensor_id: UUID) -> CaptureSession:
        """The session, held with its run and the sensor, so that none of them is put away while it becomes active."""
        found = await permit.holds(await self.uow.captures.get(session_id), "capture session")
        await self.uow.runs.get(found.run_id, Lock.SHARE)
        session = await permit.holds(await self.uow.captures.get(session_id, Lock.UPDATE), "capture session")
        await self.uow.sensors.get(sensor_id, Lock.SHARE)
        return session

    async def _locked(self, permit: Permit, backfill_id: UUID, if_version: int | None) -> Backfill:
        return await permit.holds(await self.uow.backfills.get(backfill_id, Lock.UPDATE), NOUN, if_version)


def _layer_of(backfill: Backfill) -> LayerName:
    return LayerName(
        capture_session_id=backfill.capture_session_id,
        sensor_id=backfill.sensor_id,
        profile_id=backfill.profile_id,
    )
