"""What can be done with sensors."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import evolve, frozen

from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, Page, Position, StatusChange
from experiment_domain.kernel.errors import Conflict, NotFound
from experiment_domain.sensors import (
    Sensor,
    SensorFilter,
    SignsOfLife,
    SignsWindow,
    StatusSummary,
    new_token,
    token_hash,
)
from experiment_domain.usecases.permits import Permit, UseCases, requires

LOOKED_AT_ONCE = 500
"""How many sensors one transaction looks at."""


@frozen(kw_only=True)
class Looked:
    """How many sensors were looked at, and of how many it was told that they went offline, or came back."""

    count: int
    offline: int
    online: int


@frozen(kw_only=True)
class SensorWithToken:
    """A sensor and its new token, which is shown this once and kept nowhere."""

    sensor: Sensor
    token: str


class SensorUseCases(UseCases):
    """Sensors. One that is shared with a project is seen and bound there, and changed only by its owners."""

    @requires(Permission.EDIT)
    async def register(self, permit: Permit, *, project_id: UUID, **values: Any) -> SensorWithToken:
        """A new sensor and its token."""
        await permit.holds(await self.uow.projects.get(project_id), "project")
        token = new_token()
        change = Sensor.register(
            sensor_id=self.recorder.ids.new(),
            project_id=project_id,
            token_hash=token_hash(token),
            at=self.recorder.now,
            by=(await permit.grants()).actor,
            **values,
        )
        sensor = await self.recorder.keep(self.uow.sensors, change, "sensor", "create")
        return SensorWithToken(sensor=sensor, token=token)

    @requires(Permission.READ)
    async def get(self, permit: Permit, sensor_id: UUID) -> Sensor:
        """One sensor, of a project the caller may read or shared with one."""
        return await self._seen_by(permit, sensor_id)

    @requires(Permission.READ)
    async def page(
        self, permit: Permit, which: SensorFilter, *, limit: int = 50, after: Position | None = None
    ) -> Page[Sensor]:
        """Sensors of the projects the caller may read; of those that `which` names, if it names any."""
        wanted = await self._wanted(permit, which.project_ids)
        if not wanted:
            return Page(())
        which = evolve(which, project_ids=wanted, as_of=self.recorder.now)
        return await self.uow.sensors.page(which, limit=limit, after=after)

    @requires(Permission.READ)
    async def status_summary(self, permit: Permit, project_ids: Collection[UUID] = ()) -> StatusSummary:
        """How many of the sensors that `page` would list are online, delayed and offline, but for retired ones."""
        wanted = await self._wanted(permit, project_ids)
        if not wanted:
            return StatusSummary()
        return await self.uow.sensors.status_summary(wanted, self.recorder.now)

    @requires(Permission.EDIT)
    async def edit(self, permit: Permit, sensor_id: UUID, *, if_version: int | None = None, **values: Any) -> Sensor:
        """Change what a person wrote."""
        sensor = await self._locked(permit, sensor_id, if_version)
        change = sensor.edit(at=self.recorder.now, **values)
        return await self.recorder.keep(self.uow.sensors, change, "sensor", "update")

    @requires(Permission.OWN)
    async def delete(self, permit: Permit, sensor_id: UUID, *, if_version: int | None = None) -> None:
        """Remove a sensor that never took part in a session; runs that have bound it and are not over lose it."""
        sensor = await self._locked(permit, sensor_id, if_version)
        runs = await self.uow.runs.bound_to(sensor_id)
        change = sensor.remove(
            active_sessions=await self.uow.captures.active_with(sensor_id),
            has_recorded=await self.uow.captures.any_with(sensor_id),
            is_bound_for_good=any(run.is_over for run in runs),
        )
        for run in runs:
            await self.recorder.unbound(run, sensor_id)
        await self.recorder.keep(self.uow.sensors, change, "sensor", "delete")

    @requires(Permission.ADMINISTER)
    async def rotate_token(
        self, permit: Permit, sensor_id: UUID, *, grace: float = 0.0, if_version: int | None = None
    ) -> SensorWithToken:
        """A new token; the old one dies after `grace` seconds."""
        sensor = await self._locked(permit, sensor_id, if_version)
        token = new_token()
        change = sensor.rotate_token(token_hash=token_hash(token), grace=grace, at=self.recorder.now)
        sensor = await self.recorder.keep(self.uow.sensors, change, "sensor", "rotate_token")
        return SensorWithToken(sensor=sensor, token=token)

    @requires(Permission.EDIT)
    async def activate(
        self, permit: Permit, sensor_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Sensor:
        """→ active."""
        sensor = await self._locked(permit, sensor_id, if_version)
        change = sensor.activate(at=self.recorder.now)
        return await self.recorder.keep(self.uow.sensors, change, "sensor", "activate", reason=reason)

    @requires(Permission.EDIT)
    async def deactivate(
        self, permit: Permit, sensor_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Sensor:
        """active → inactive."""
        sensor = await self._locked(permit, sensor_id, if_version)
        change = sensor.deactivate(at=self.recorder.now)
        return await self.recorder.keep(self.uow.sensors, change, "sensor", "deactivate", reason=reason)

    @requires(Permission.OWN)
    async def retire(
        self, permit: Permit, sensor_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> Sensor:
        """→ retired, for good."""
        sensor = await self._locked(permit, sensor_id, if_version)
        change = sensor.retire(active_sessions=await self.uow.captures.active_with(sensor_id), at=self.recorder.now)
        return await self.recorder.keep(self.uow.sensors, change, "sensor", "retire", reason=reason)

    @requires(Permission.READ)
    async def history(self, permit: Permit, sensor_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first, for those who may read its own project."""
        await permit.holds(await self.uow.sensors.get(sensor_id), "sensor")
        return await self.uow.history.of("sensor", sensor_id)

    @requires(Permission.INGEST)
    async def heartbeat(self, permit: Permit, sensor_id: UUID) -> Sensor:
        """A sign of life from the sensor itself; the first one makes it active."""
        await permit.sensor(sensor_id)
        sensor = await self.uow.sensors.get(sensor_id, Lock.UPDATE)
        if sensor is None:
            raise NotFound("sensor")
        sensor.check_delivers()
        now = self.recorder.now
        self.uow.sensors.renew_sign_of_life(sensor_id, now)
        sensor = await self.recorder.keep(self.uow.sensors, sensor.seen(at=now), "sensor", "activate")
        return evolve(sensor, last_seen_at=max(now, sensor.last_seen_at or now))

    @requires(Permission.READ)
    async def heartbeats(
        self,
        permit: Permit,
        sensor_id: UUID,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        bucket: int = 60,
    ) -> Sequence[SignsOfLife]:
        """Its signs of life by buckets of so many seconds, oldest first, for whoever may see the sensor.

        The window is the last hour unless told otherwise; see `SignsWindow`.
        """
        await self._seen_by(permit, sensor_id)
        window = SignsWindow.of(start=start, end=end, bucket=bucket, now=self.recorder.now)
        return await self.uow.sensors.signs_of_life(sensor_id, window)

    @requires(Permission.READ)
    async def projects(self, permit: Permit, sensor_id: UUID) -> Sequence[UUID]:
        """The projects that may bind it, as far as the caller may know of them: its own first."""
        await permit.holds(await self.uow.sensors.get(sensor_id), "sensor")
        grants = await permit.grants()
        found = await self.uow.sensors.projects_of(sensor_id)
        return [project_id for project_id in found if grants.allows(Permission.READ, project_id)]

    @requires(Permission.OWN)
    async def share(self, permit: Permit, sensor_id: UUID, project_id: UUID) -> None:
        """Let another project bind it. The caller owns the sensor's project and may edit the other."""
        sensor = await self._locked(permit, sensor_id, None)
        (await permit.grants()).require(Permission.EDIT, project_id, "project")
        if await self.uow.projects.get(project_id) is None:
            raise NotFound("project")
        if project_id in await self.uow.sensors.projects_of(sensor_id):
            return
        sensor.check_not_retired()
        self.uow.sensors.share(sensor_id, project_id, self.recorder.now, (await permit.grants()).actor)
        await self.recorder.audit(
            "sensor", str(sensor_id), sensor.project_id, "share", after={"project_id": str(project_id)}
        )

    @requires(Permission.OWN)
    async def unshare(self, permit: Permit, sensor_id: UUID, project_id: UUID) -> None:
        """Take it back: it takes part in no further session there, and still delivers to those it took part in."""
        sensor = await self._locked(permit, sensor_id, None)
        if project_id == sensor.project_id:
            raise Conflict("owning_project", "A sensor always belongs to its own project.")
        if project_id not in await self.uow.sensors.projects_of(sensor_id):
            raise NotFound("project")
        self.uow.sensors.unshare(sensor_id, project_id)
        await self.recorder.audit(
            "sensor", str(sensor_id), sensor.project_id, "unshare", before={"project_id": str(project_id)}
        )

    @requires(Permission.WORK)
    async def look(self, permit: Permit, *, most: int = LOOKED_AT_ONCE) -> Looked:
        """Look at sensors whose time has come, and tell which have gone offline, and which have come back."""
        permit.service()
        due = await self.uow.sensor_vigils.due(self.recorder.clock.now(), most=most)
        looked = [vigil.looked(self.recorder.now) for vigil in due]
        self.uow.sensor_vigils.keep([vigil for vigil, _ in looked])
        told = [vigil.is_told_offline for vigil, event in looked if event is not None]
        await self.recorder.emit(*(event for _, event in looked if event is not None))
        return Looked(count=len(due), offline=told.count(True), online=told.count(False))

    async def _seen_by(self, permit: Permit, sensor_id: UUID) -> Sensor:
        sensor = await self.uow.sensors.get(sensor_id)
        if sensor is not None:
            grants = await permit.grants()
            for project_id in await self.uow.sensors.projects_of(sensor_id):
                if grants.allows(permit.permission, project_id):
                    await permit.require(project_id, "sensor")
                    return sensor
        return await permit.holds(sensor, "sensor")

    async def _wanted(self, permit: Permit, project_ids: Collection[UUID]) -> frozenset[UUID]:
        readable = await permit.projects()
        return readable & frozenset(project_ids) if project_ids else readable

    async def _locked(self, permit: Permit, sensor_id: UUID, if_version: int | None) -> Sensor:
        return await permit.holds(await self.uow.sensors.get(sensor_id, Lock.UPDATE), "sensor", if_version)
