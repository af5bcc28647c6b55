"""Conversion profiles: versioned rules raw → physical of one sensor."""

from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from attrs import field, frozen

from experiment_domain.conversions.parameters import rule_from, valid_range_from
from experiment_domain.conversions.rules import ProfileKind, Rule, ValidRange
from experiment_domain.events import OfProfile, ProfilePublished, ProfileRetired
from experiment_domain.kernel.entity import (
    Change,
    Entity,
    Lock,
    Page,
    Position,
    Repository,
    changed,
    created,
    unchanged,
)
from experiment_domain.kernel.errors import Conflict
from experiment_domain.kernel.events import Event, EventData
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.kernel.values import checked_text
from experiment_domain.sensors import UNIT_LENGTH


class ProfileStatus(StrEnum):
    """The statuses of a conversion profile."""

    DRAFT = "draft"
    PUBLISHED = "published"
    RETIRED = "retired"


CONVERSION_PROFILE = Lifecycle(
    "conversion_profile",
    ProfileStatus.DRAFT,
    {
        ProfileStatus.DRAFT: (ProfileStatus.PUBLISHED,),
        ProfileStatus.PUBLISHED: (ProfileStatus.RETIRED,),
    },
)


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a person writes, checked; only those that are given."""
    fields = dict(values)
    for name in ("input_unit", "output_unit"):
        if name in fields:
            checked_text(name, fields[name], longest=UNIT_LENGTH, lines=False)
    if fields.get("notes") is not None:
        checked_text("notes", fields["notes"])
    if "valid_range" in fields:
        fields["valid_range"] = valid_range_from(fields["valid_range"])
    return fields


def _rule_facts(rule: Rule) -> dict[str, Any]:
    return {"kind": rule.kind.value, "parameters": rule.parameters}


@frozen(kw_only=True)
class ConversionProfile(Entity):
    """One version of a sensor's rule raw → physical. Once published it never changes.

    `profile_version` counts a sensor's profiles 1, 2, 3 …; `version` counts the edits of this one.
    """

    sensor_id: UUID
    profile_version: int
    rule: Rule = field(metadata={"facts": _rule_facts})
    input_unit: str
    output_unit: str
    valid_range: ValidRange | None = None
    notes: str | None = None
    status: ProfileStatus = ProfileStatus.DRAFT
    published_at: datetime | None = None

    @classmethod
    def draft(
        cls,
        *,
        profile_id: UUID,
        project_id: UUID,
        sensor_id: UUID,
        profile_version: int,
        kind: ProfileKind,
        parameters: Mapping[str, Any],
        at: datetime,
        by: str,
        **values: Any,
    ) -> Change["ConversionProfile"]:
        """A new version, in draft; the rule is checked now."""
        profile = cls(
            id=profile_id,
            project_id=project_id,
            sensor_id=sensor_id,
            profile_version=profile_version,
            rule=rule_from(kind, parameters),
            created_at=at,
            updated_at=at,
            created_by=by,
            **checked_fields(values),
        )
        return created(profile)

    def event(self, said: EventData, at: datetime) -> Event:
        """An event of this profile."""
        return Event.of(said, project_id=self.project_id, about=self.id, at=at)

    def edit(
        self,
        *,
        at: datetime,
        kind: ProfileKind | None = None,
        parameters: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Change["ConversionProfile"]:
        """Change a draft. A published profile never changes: draft the next version instead."""
        if self.status is not ProfileStatus.DRAFT:
            raise Conflict("not_draft", f"This profile is {self.status} and never changes: draft a new version.")
        fields = checked_fields(values)
        if kind is not None or parameters is not None:
            now = self.rule
            fields["rule"] = rule_from(
                now.kind if kind is None else kind, now.parameters if parameters is None else parameters
            )
        return changed(self, at, fields)

    def publish(self, *, at: datetime) -> Change["ConversionProfile"]:
        """draft → published: sessions started from now on pin it."""
        return self._move(ProfileStatus.PUBLISHED, at, ProfilePublished, {"published_at": at})

    def retire(self, *, at: datetime) -> Change["ConversionProfile"]:
        """published → retired: sessions started from now on do not pin it."""
        return self._move(ProfileStatus.RETIRED, at, ProfileRetired, {})

    def _move(
        self, target: ProfileStatus, at: datetime, kind: type[OfProfile], values: Mapping[str, Any]
    ) -> Change["ConversionProfile"]:
        if not CONVERSION_PROFILE.moves(self.status, target):
            return unchanged(self)
        said = kind(sensor_id=self.sensor_id, profile_version=self.profile_version)
        return changed(self, at, {"status": target, **values}, self.event(said, at))


class ConversionProfileRepository(Repository[ConversionProfile], Protocol):
    """Keeps conversion profiles."""

    @abstractmethod
    async def published(self, sensor_id: UUID, lock: Lock = Lock.NONE) -> ConversionProfile | None:
        """The version of a sensor that is published now, or None."""

    @abstractmethod
    async def next_version(self, sensor_id: UUID) -> int:
        """The next `profile_version` of a sensor; call it with the sensor locked."""

    @abstractmethod
    async def page(self, sensor_id: UUID, *, limit: int, after: Position | None) -> Page[ConversionProfile]:
        """The versions of a sensor, newest first."""
