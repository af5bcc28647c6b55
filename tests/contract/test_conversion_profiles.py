"""What every `ConversionProfileRepository` promises."""

import asyncio
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from entities import a_profile, a_project, a_sensor, fresh, later
from experiment_domain.conversions.its90 import TYPE_K_INVERSE
from experiment_domain.conversions.profiles import ConversionProfile, ProfileStatus
from experiment_domain.conversions.rules import ProfileKind, ValidRange
from experiment_domain.kernel.entity import Lock
from experiment_domain.sensors import Sensor
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, SYSTEM, all_pages, ask, keep, kept, refused, save
from strategies import rules, valid_ranges


async def _a_kept_sensor(units: UnitsOfWork) -> Sensor:
    project = a_project()
    sensor = a_sensor(project)
    await keep(units, project, sensor)
    return sensor


FULL: dict[str, Any] = {
    "profile_version": 9,
    "rule": TYPE_K_INVERSE,
    "input_unit": "",
    "output_unit": "°C",
    "valid_range": ValidRange(-5.891, None),
    "notes": ODD_TEXT,
    "status": ProfileStatus.RETIRED,
    "published_at": later(0.000001),
    "version": 3,
}


@pytest.mark.parametrize("values", [{}, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("lock", Lock)
async def test_every_field_comes_back(units_of_work: UnitsOfWork, values: dict[str, Any], lock: Lock):
    profile = a_profile(await _a_kept_sensor(units_of_work), **values)
    await keep(units_of_work, profile)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.conversion_profiles.get(profile.id, lock) == profile
        assert await uow.conversion_profiles.get(fresh(), lock) is None


@pytest.mark.parametrize("kind", ProfileKind)
def test_every_rule_comes_back(runner: asyncio.Runner, units_of_work: UnitsOfWork, kind: ProfileKind):
    sensor = runner.run(_a_kept_sensor(units_of_work))
    versions = iter(range(1, 1_000_000))

    @given(st.tuples(rules(kind), valid_ranges()))
    def comes_back(drawn: Any) -> None:
        rule, valid_range = drawn
        profile = a_profile(sensor, rule=rule, valid_range=valid_range, profile_version=next(versions))
        runner.run(keep(units_of_work, profile))
        assert runner.run(kept(units_of_work, profile)) == profile

    comes_back()


async def test_a_changed_profile_is_kept(units_of_work: UnitsOfWork):
    profile = a_profile(await _a_kept_sensor(units_of_work))
    await keep(units_of_work, profile)
    edited = profile.edit(
        at=later(1),
        kind=ProfileKind.TABLE,
        parameters={"points": [[0, 1], [2, 3]], "outside": "clamp"},
        valid_range={"min": 0, "max": 2},
        notes="n",
    ).result
    published = edited.publish(at=later(2)).result
    await save(units_of_work, edited, published)
    assert await kept(units_of_work, profile) == published


@pytest.mark.parametrize("lock", Lock)
async def test_the_published_version(units_of_work: UnitsOfWork, lock: Lock):
    sensor, other = await _a_kept_sensor(units_of_work), await _a_kept_sensor(units_of_work)
    profiles = [
        a_profile(sensor, profile_version=1, status=ProfileStatus.RETIRED),
        a_profile(sensor, profile_version=2, status=ProfileStatus.PUBLISHED),
        a_profile(sensor, profile_version=3),
        a_profile(other),
    ]
    await keep(units_of_work, *profiles)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.conversion_profiles.published(sensor.id, lock) == profiles[1]
        assert await uow.conversion_profiles.published(other.id, lock) is None
        assert await uow.conversion_profiles.published(fresh(), lock) is None


async def test_one_version_is_published(units_of_work: UnitsOfWork):
    sensor = await _a_kept_sensor(units_of_work)
    published = a_profile(sensor, status=ProfileStatus.PUBLISHED)
    draft = a_profile(sensor, profile_version=2)
    await keep(units_of_work, published, draft)
    async with refused(units_of_work, "already_published") as uow:
        uow.conversion_profiles.save(draft.publish(at=later(1)).result)
    async with refused(units_of_work, "already_published") as uow:
        uow.conversion_profiles.add(a_profile(sensor, profile_version=3, status=ProfileStatus.PUBLISHED))
    await save(units_of_work, published.retire(at=later(1)).result, draft.publish(at=later(1)).result)
    found: ConversionProfile | None = await ask(units_of_work, lambda uow: uow.conversion_profiles.published(sensor.id))
    assert found is not None
    assert found.id == draft.id


async def test_versions_are_numbered_per_sensor(units_of_work: UnitsOfWork):
    sensor, other = await _a_kept_sensor(units_of_work), await _a_kept_sensor(units_of_work)
    assert await ask(units_of_work, lambda uow: uow.conversion_profiles.next_version(sensor.id)) == 1
    await keep(units_of_work, a_profile(sensor), a_profile(sensor, profile_version=4), a_profile(other))
    assert await ask(units_of_work, lambda uow: uow.conversion_profiles.next_version(sensor.id)) == 5
    assert await ask(units_of_work, lambda uow: uow.conversion_profiles.next_version(other.id)) == 2
    async with refused(units_of_work, "version_taken") as uow:
        uow.conversion_profiles.add(a_profile(sensor, profile_version=4))


async def test_a_profile_is_of_a_sensor_that_is_there(units_of_work: UnitsOfWork):
    sensor = await _a_kept_sensor(units_of_work)
    async with refused(units_of_work, "reference_missing") as uow:
        uow.conversion_profiles.add(evolve(a_profile(sensor), sensor_id=fresh()))


@pytest.mark.parametrize("limit", [1, 2, 6])
async def test_pages_are_newest_first(units_of_work: UnitsOfWork, limit: int):
    sensor, other = await _a_kept_sensor(units_of_work), await _a_kept_sensor(units_of_work)
    profiles = [a_profile(sensor, profile_version=number, created_at=later(number // 2)) for number in range(1, 7)]
    await keep(units_of_work, *profiles, a_profile(other))
    pages = await all_pages(
        lambda limit, after: ask(
            units_of_work, lambda uow: uow.conversion_profiles.page(sensor.id, limit=limit, after=after)
        ),
        limit,
    )
    assert [profile for page in pages for profile in page] == profiles[::-1]
