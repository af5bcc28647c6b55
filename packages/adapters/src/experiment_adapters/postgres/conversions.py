"""Conversion profiles in PostgreSQL."""

from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from experiment_adapters.postgres.filters import Conditions
from experiment_adapters.postgres.mapping import JSON, Codec, Order, Table, enum, page
from experiment_adapters.postgres.repository import PostgresRepository
from experiment_adapters.postgres.statements import Row
from experiment_domain.conversions.parameters import bounds_of, rule_from, valid_range_from
from experiment_domain.conversions.profiles import (
    ConversionProfile,
    ConversionProfileRepository,
    ProfileStatus,
)
from experiment_domain.conversions.rules import ProfileKind, Rule
from experiment_domain.kernel.entity import Lock, Page, Position


@lru_cache(maxsize=256)
def _rule(kind: str, parameters: str) -> Rule:
    """A rule as it was kept, checked once: checking a large table for each batch would cost more than using it."""
    return rule_from(ProfileKind(kind), msgspec.json.decode(parameters))


class _ConversionProfiles(Table[ConversionProfile]):
    """The rule of a profile fills two columns: its kind and its parameters, the last of the row."""

    def entity(self, row: Row, **others: Any) -> ConversionProfile:
        return super().entity(row, rule=_rule(row[self.width], row[self.width + 1]), **others)


CONVERSION_PROFILES = _ConversionProfiles(
    ConversionProfile,
    "conversion_profiles",
    {
        "status": enum(ProfileStatus),
        "valid_range": Codec(lambda bounds: JSON.dump(bounds_of(bounds)), valid_range_from),
    },
    without=["rule"],
    others={
        "kind": lambda profile: str(profile.rule.kind),
        "parameters": lambda profile: JSON.dump(profile.rule.parameters),
    },
    read={"parameters": "conversion_profiles.parameters::text"},
)


class PostgresConversionProfiles(PostgresRepository[ConversionProfile], ConversionProfileRepository):
    """Keeps profiles in `conversion_profiles`."""

    table = CONVERSION_PROFILES

    async def published(self, sensor_id: UUID, lock: Lock = Lock.NONE) -> ConversionProfile | None:
        where = "sensor_id = %s AND status = 'published'"
        return await CONVERSION_PROFILES.one(self._statements.ask(CONVERSION_PROFILES.select(where, lock), [sensor_id]))

    async def next_version(self, sensor_id: UUID) -> int:
        return await self._statements.ask(
            "SELECT coalesce(max(profile_version), 0) + 1 FROM conversion_profiles WHERE sensor_id = %s",
            [sensor_id],
        ).value()

    async def page(self, sensor_id: UUID, *, limit: int, after: Position | None) -> Page[ConversionProfile]:
        conditions = Conditions()
        conditions.within("sensor_id", [sensor_id])
        return await page(
            self._statements,
            CONVERSION_PROFILES,
            conditions,
            order=Order.by("-profile_version"),
            limit=limit,
            after=after,
        )
