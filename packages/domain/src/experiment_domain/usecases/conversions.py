"""What can be done with conversion profiles."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.conversions.rules import Converter, ProfileKind
from experiment_domain.kernel.access import Permission
from experiment_domain.kernel.entity import Lock, Page, Position, StatusChange
from experiment_domain.sensors import Sensor
from experiment_domain.usecases.permits import Permit, UseCases, requires
from experiment_domain.usecases.recording import Recorder

NOUN = "conversion_profile"


class ConversionUseCases(UseCases):
    """Conversion profiles. Whatever changes one locks its sensor first, so that one version is published."""

    def __init__(self, recorder: Recorder, converter: Converter) -> None:
        super().__init__(recorder)
        self._converter = converter

    @requires(Permission.EDIT)
    async def draft(
        self,
        permit: Permit,
        sensor_id: UUID,
        *,
        kind: ProfileKind,
        parameters: Mapping[str, Any],
        input_unit: str | None = None,
        output_unit: str | None = None,
        **values: Any,
    ) -> ConversionProfile:
        """The next version of a sensor's rule, in draft. Units not given are the sensor's."""
        sensor = await self._sensor(permit, sensor_id)
        sensor.check_not_retired()
        change = ConversionProfile.draft(
            profile_id=self.recorder.ids.new(),
            project_id=sensor.project_id,
            sensor_id=sensor_id,
            profile_version=await self.uow.conversion_profiles.next_version(sensor_id),
            kind=kind,
            parameters=parameters,
            input_unit=sensor.input_unit if input_unit is None else input_unit,
            output_unit=sensor.display_unit if output_unit is None else output_unit,
            at=self.recorder.now,
            by=(await permit.grants()).actor,
            **values,
        )
        return await self.recorder.keep(self.uow.conversion_profiles, change, NOUN, "create")

    @requires(Permission.READ)
    async def get(self, permit: Permit, profile_id: UUID) -> ConversionProfile:
        """One profile."""
        return await permit.holds(await self.uow.conversion_profiles.get(profile_id), "conversion profile")

    @requires(Permission.READ)
    async def page(
        self, permit: Permit, sensor_id: UUID, *, limit: int = 50, after: Position | None = None
    ) -> Page[ConversionProfile]:
        """The versions of a sensor, newest first."""
        await permit.holds(await self.uow.sensors.get(sensor_id), "sensor")
        return await self.uow.conversion_profiles.page(sensor_id, limit=limit, after=after)

    @requires(Permission.EDIT)
    async def edit(
        self, permit: Permit, profile_id: UUID, *, if_version: int | None = None, **values: Any
    ) -> ConversionProfile:
        """Change a draft."""
        profile = await self._locked(permit, profile_id, if_version)
        change = profile.edit(at=self.recorder.now, **values)
        return await self.recorder.keep(self.uow.conversion_profiles, change, NOUN, "update")

    @requires(Permission.ADMINISTER)
    async def publish(
        self, permit: Permit, profile_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> ConversionProfile:
        """draft → published; the version before it is retired."""
        profile = await self._locked(permit, profile_id, if_version)
        change = profile.publish(at=self.recorder.now)
        before = await self.uow.conversion_profiles.published(profile.sensor_id, Lock.UPDATE)
        if not change.is_empty and before is not None:
            await self.recorder.keep(
                self.uow.conversion_profiles,
                before.retire(at=self.recorder.now),
                NOUN,
                "retire",
                reason=f"version {profile.profile_version} was published",
            )
        return await self.recorder.keep(self.uow.conversion_profiles, change, NOUN, "publish", reason=reason)

    @requires(Permission.ADMINISTER)
    async def retire(
        self, permit: Permit, profile_id: UUID, *, reason: str | None = None, if_version: int | None = None
    ) -> ConversionProfile:
        """published → retired."""
        profile = await self._locked(permit, profile_id, if_version)
        change = profile.retire(at=self.recorder.now)
        return await self.recorder.keep(self.uow.conversion_profiles, change, NOUN, "retire", reason=reason)

    @requires(Permission.READ)
    async def preview(
        self, permit: Permit, profile_id: UUID, values: Sequence[float]
    ) -> tuple[ConversionProfile, list[float | None]]:
        """What the profile makes of raw `values`; None where there is no physical value."""
        profile = await permit.holds(await self.uow.conversion_profiles.get(profile_id), "conversion profile")
        converted = self._converter.convert(profile.rule, array("d", values), profile.valid_range)
        return profile, [None if value != value else value for value in converted]  # noqa: PLR0124 - NaN

    @requires(Permission.READ)
    async def history(self, permit: Permit, profile_id: UUID) -> Sequence[StatusChange]:
        """Its transitions, oldest first."""
        await permit.holds(await self.uow.conversion_profiles.get(profile_id), "conversion profile")
        return await self.uow.history.of(NOUN, profile_id)

    async def _sensor(self, permit: Permit, sensor_id: UUID) -> Sensor:
        return await permit.holds(await self.uow.sensors.get(sensor_id, Lock.UPDATE), "sensor")

    async def _locked(self, permit: Permit, profile_id: UUID, if_version: int | None) -> ConversionProfile:
        found = await permit.holds(await self.uow.conversion_profiles.get(profile_id), "conversion profile")
        await self._sensor(permit, found.sensor_id)
        return await permit.holds(
            await self.uow.conversion_profiles.get(profile_id, Lock.UPDATE), "conversion profile", if_version
        )
