"""Conversion profiles."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from experiment_domain.conversions.parameters import bounds_of
from experiment_domain.conversions.profiles import ConversionProfile, ProfileStatus
from experiment_domain.conversions.rules import ProfileKind
from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.usecases import Work
from experiment_domain.usecases.conversions import ConversionUseCases
from experiment_http.answers import EntityView, Items, Paged, View, created, one, shown
from experiment_http.operations import Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.times import Timestamp
from experiment_http.v1.sensors import Unit
from experiment_http.v1.values import ENTITY, Json, Request, StatusChangeView, Text, Transition

PREVIEWED = 10_000
Parameters = Annotated[
    Json,
    Meta(
        description="By kind. linear: `a`, `b` (a·x + b); polynomial: `coefficients`, lowest degree first; "
        "piecewise_polynomial: `ranges` of `min`, `max`, `coefficients`; table: `points` of [x, y], and `outside`: "
        "reject, clamp or extrapolate; identity: none."
    ),
]
_WRITTEN: Mapping[str, Any] = {
    "kind": "linear",
    "parameters": {"a": 24.2, "b": -1.5},
    "input_unit": "mV",
    "output_unit": "°C",
    "valid_range": {"min": -6.0, "max": 55.0},
    "notes": "calibrated on 2026-03-01",
}


class ValidRange(Request, frozen=True):
    """The raw values that the sensor can mean; null leaves a side open."""

    min: float | UnsetType | None = UNSET
    max: float | UnsetType | None = UNSET


class NewProfile(Request, frozen=True):
    """The next version of a sensor's rule. Units that are not given are the sensor's."""

    example: ClassVar[Mapping[str, Any]] = _WRITTEN

    kind: ProfileKind
    parameters: Parameters
    input_unit: Unit | UnsetType | None = UNSET
    output_unit: Unit | UnsetType | None = UNSET
    valid_range: ValidRange | UnsetType | None = UNSET
    notes: Text | UnsetType | None = UNSET


class ProfileEdit(Request, frozen=True):
    """What is to change in a draft."""

    example: ClassVar[Mapping[str, Any]] = {"parameters": {"a": 24.3, "b": -1.5}, "valid_range": None}

    kind: ProfileKind | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET
    input_unit: Unit | UnsetType = UNSET
    output_unit: Unit | UnsetType = UNSET
    valid_range: ValidRange | UnsetType | None = UNSET
    notes: Text | UnsetType | None = UNSET


class Preview(Request, frozen=True):
    """Raw values to be converted."""

    example: ClassVar[Mapping[str, Any]] = {"values": [0.0, 1.07, 99.0]}

    values: Annotated[list[float], Meta(max_length=PREVIEWED)]


class Bounds(View, frozen=True):
    """The raw values that the sensor can mean; null leaves a side open."""

    min: float | None
    max: float | None


class ProfileView(EntityView, frozen=True):
    """One version of a sensor's rule raw → physical.

    `profile_version` counts the sensor's profiles; `version` counts the edits of this one.
    """

    location: ClassVar[str] = "/conversion-profiles"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        "sensor_id": "0195798a-1b2c-7d3e-9f40-51627384a5b6",
        "profile_version": 2,
        **_WRITTEN,
        "status": "published",
        "published_at": "2026-03-09T10:14:33.000000Z",
    }

    sensor_id: UUID
    profile_version: int
    kind: ProfileKind
    parameters: Json
    input_unit: str
    output_unit: str
    valid_range: Bounds | None
    notes: str | None
    status: ProfileStatus
    published_at: Timestamp | None

    @classmethod
    def of(cls, thing: ConversionProfile) -> Self:
        """The view of a profile, its rule written as kind and parameters."""
        bounds = bounds_of(thing.valid_range)
        rule = {
            "kind": thing.rule.kind,
            "parameters": thing.rule.parameters,
            "valid_range": None if bounds is None else Bounds(**bounds),
        }
        named = {name: shown(getattr(thing, name)) for name in cls.__struct_fields__ if name not in rule}
        return cls(**named, **rule)


class ConvertedView(View, frozen=True):
    """The physical values in the order of the raw ones; null where there is none."""

    example: ClassVar[Mapping[str, Any]] = {
        "items": [-1.5, 24.394, None],
        "input_unit": "mV",
        "output_unit": "°C",
    }

    items: list[float | None]
    input_unit: str
    output_unit: str

    @classmethod
    def of(cls, thing: tuple[ConversionProfile, list[float | None]]) -> Self:
        """The view of a profile and what it made of the values."""
        profile, values = thing
        return cls(values, profile.input_unit, profile.output_unit)


operations = Operations("conversion profiles", "Versioned rules that make physical values of raw ones.")
ONE = one(ProfileView)


def _fields(body: msgspec.Struct) -> dict[str, Any]:
    fields = given(body)
    if isinstance(fields.get("valid_range"), ValidRange):
        fields["valid_range"] = given(fields["valid_range"])
    return fields


@operations.post("/sensors/{sensor_id:uuid}/conversion-profiles", ConversionUseCases.draft, created(ProfileView))
async def draft_profile(work: Work, sensor_id: UUID, body: NewProfile) -> ConversionProfile:
    """Draft the next version of a sensor's conversion profile.

    The rule is checked now: finite numbers, ordered points, ranges without overlap.
    """
    return await work.conversions.draft(sensor_id, **_fields(body))


@operations.get("/sensors/{sensor_id:uuid}/conversion-profiles", ConversionUseCases.page, Paged(view=ProfileView))
async def list_profiles(
    work: Work, sensor_id: UUID, query: PageQuery, after: Position | None = None
) -> Page[ConversionProfile]:
    """List the versions of a sensor's conversion profile, newest first."""
    return await work.conversions.page(sensor_id, limit=query.limit, after=after)


@operations.get("/conversion-profiles/{profile_id:uuid}", ConversionUseCases.get, ONE)
async def get_profile(work: Work, profile_id: UUID) -> ConversionProfile:
    """Show a conversion profile."""
    return await work.conversions.get(profile_id)


@operations.patch("/conversion-profiles/{profile_id:uuid}", ConversionUseCases.edit, ONE)
async def edit_profile(work: Work, profile_id: UUID, body: ProfileEdit, if_version: int | None) -> ConversionProfile:
    """Change a draft. A published profile never changes (`not_draft`)."""
    return await work.conversions.edit(profile_id, if_version=if_version, **_fields(body))


@operations.post("/conversion-profiles/{profile_id:uuid}/publish", ConversionUseCases.publish, ONE)
async def publish_profile(
    work: Work, profile_id: UUID, if_version: int | None, body: Transition | None = None
) -> ConversionProfile:
    """Publish a conversion profile: sessions started from now on pin it.

    The version published before is retired.
    """
    return await work.conversions.publish(profile_id, if_version=if_version, **given(body or Transition()))


@operations.post("/conversion-profiles/{profile_id:uuid}/retire", ConversionUseCases.retire, ONE)
async def retire_profile(
    work: Work, profile_id: UUID, if_version: int | None, body: Transition | None = None
) -> ConversionProfile:
    """Retire a conversion profile: sessions started from now on do not pin it."""
    return await work.conversions.retire(profile_id, if_version=if_version, **given(body or Transition()))


@operations.post("/conversion-profiles/{profile_id:uuid}/preview", ConversionUseCases.preview, one(ConvertedView))
async def preview_profile(work: Work, profile_id: UUID, body: Preview) -> tuple[ConversionProfile, list[float | None]]:
    """Convert raw values by a profile, in any of its statuses. Nothing is kept of it."""
    return await work.conversions.preview(profile_id, body.values)


@operations.get(
    "/conversion-profiles/{profile_id:uuid}/history", ConversionUseCases.history, Items(view=StatusChangeView)
)
async def profile_history(work: Work, profile_id: UUID) -> Sequence[StatusChange]:
    """List a conversion profile's transitions, oldest first."""
    return await work.conversions.history(profile_id)
