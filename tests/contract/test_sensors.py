"""What every `SensorRepository` promises."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from entities import NOW, a_profile, a_project, a_run, a_sensor, a_session, an_experiment, fresh, later
from experiment_domain.captures import Pin
from experiment_domain.kernel.entity import Lock
from experiment_domain.projects import Project
from experiment_domain.runs import RunSensor
from experiment_domain.sensors import (
    DELAYED_FOR,
    LONGEST_BUCKET,
    MINUTE,
    MOST_BUCKETS,
    ONLINE_FOR,
    Connection,
    Sensor,
    SensorFilter,
    SensorStatus,
    SignsWindow,
    StatusSummary,
    minute_of,
    new_token,
    token_hash,
)
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, SYSTEM, all_pages, ask, committed, keep, kept, refused, save


def _full() -> dict[str, Any]:
    return {
        "name": ODD_TEXT,
        "sensor_type": "RTD",
        "input_unit": "Ω",
        "display_unit": "µK",
        "signals": ("z", "a", ODD_TEXT),
        "metadata": {"serial": [1, {"a": None}]},
        "status": SensorStatus.INACTIVE,
        "last_seen_at": later(0.000001),
        "previous_token_hash": token_hash(new_token()),
        "previous_token_dies_at": later(60),
        "version": 5,
    }


@pytest.mark.parametrize("full", [False, True], ids=["plain", "full"])
@pytest.mark.parametrize("lock", Lock)
async def test_every_field_comes_back(units_of_work: UnitsOfWork, full: bool, lock: Lock):
    project = a_project()
    sensor = a_sensor(project, **(_full() if full else {}))
    await keep(units_of_work, project, sensor)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.sensors.get(sensor.id, lock) == sensor
        assert await uow.sensors.get(fresh(), lock) is None


async def test_a_changed_sensor_is_kept(units_of_work: UnitsOfWork):
    project = a_project()
    sensor = a_sensor(project)
    await keep(units_of_work, project, sensor)
    edited = sensor.edit(at=later(1), name="B", signals=["x"], metadata={"a": 1}, display_unit="K").result
    rotated = edited.rotate_token(token_hash=token_hash(new_token()), grace=5.0, at=later(2)).result
    await save(units_of_work, edited, rotated)
    assert await kept(units_of_work, sensor) == rotated


async def test_a_sensor_is_of_a_project_that_is_there(units_of_work: UnitsOfWork):
    async with refused(units_of_work, "reference_missing") as uow:
        uow.sensors.add(a_sensor())


async def test_no_two_sensors_have_one_token(units_of_work: UnitsOfWork):
    project = a_project()
    sensor, other = a_sensor(project), a_sensor(project)
    await keep(units_of_work, project, sensor, other)
    async with refused(units_of_work, "already_exists") as uow:
        uow.sensors.add(a_sensor(project, token_hash=sensor.token_hash))
    async with refused(units_of_work, "already_exists") as uow:
        uow.sensors.save(evolve(other, version=2, token_hash=sensor.token_hash))


@pytest.mark.parametrize("lock", Lock)
async def test_a_token_finds_its_sensor_until_it_dies(units_of_work: UnitsOfWork, lock: Lock):
    project = a_project()
    tokens = [token_hash(new_token()) for _ in range(3)]
    sensor = a_sensor(project, token_hash=tokens[1], previous_token_hash=tokens[0], previous_token_dies_at=later(60))
    await keep(units_of_work, project, sensor, a_sensor(project))
    async with units_of_work.begin(SYSTEM) as uow:
        for at in (later(0), later(60), later(10_000)):
            assert await uow.sensors.by_token(tokens[1], at, lock) == sensor
            assert await uow.sensors.by_token(tokens[2], at, lock) is None
        assert await uow.sensors.by_token(tokens[0], later(59.999999), lock) == sensor
        assert await uow.sensors.by_token(tokens[0], later(60), lock) is None
        assert await uow.sensors.by_token(tokens[0], later(61), lock) is None


async def test_a_sign_of_life_is_no_new_version(units_of_work: UnitsOfWork):
    project = a_project()
    sensor = a_sensor(project)
    await keep(units_of_work, project, sensor)
    async with committed(units_of_work) as uow:
        uow.sensors.renew_sign_of_life(sensor.id, later(5))
        uow.sensors.renew_sign_of_life(fresh(), later(5))
    assert await kept(units_of_work, sensor) == evolve(sensor, last_seen_at=later(5))
    async with committed(units_of_work) as uow:  # that came late: the later one counts
        uow.sensors.renew_sign_of_life(sensor.id, later(4))
    assert (await kept(units_of_work, sensor)).last_seen_at == later(5)


async def _counts(
    units: UnitsOfWork, sensor: Sensor, start: datetime, end: datetime, bucket: int = 60
) -> list[tuple[datetime, datetime, int]]:
    window = SignsWindow.of(start=start, end=end, bucket=bucket, now=start)
    found = await ask(units, lambda uow: uow.sensors.signs_of_life(sensor.id, window))
    return [(signs.timestamp, signs.end, signs.count) for signs in found]


async def test_signs_of_life_are_counted_by_the_minute(units_of_work: UnitsOfWork):
    project = a_project()
    sensor, other = a_sensor(project), a_sensor(project)
    await keep(units_of_work, project, sensor, other)
    minute = minute_of(NOW)
    for seconds in (0, 59.999999, 60, 179.999999, -0.000001, 60):
        async with committed(units_of_work) as uow:
            uow.sensors.renew_sign_of_life(sensor.id, minute + timedelta(seconds=seconds))
    async with committed(units_of_work) as uow:  # several in one unit of work, and of others
        for _ in range(3):
            uow.sensors.renew_sign_of_life(sensor.id, minute + 2 * MINUTE)
        uow.sensors.renew_sign_of_life(other.id, minute)
        uow.sensors.renew_sign_of_life(fresh(), minute)
    ends = [minute + number * MINUTE for number in range(-1, 5)]
    expected = list(zip(ends, ends[1:], [1, 2, 2, 4, 0], strict=False))
    assert await _counts(units_of_work, sensor, ends[0], ends[-1]) == expected
    assert await _counts(units_of_work, sensor, ends[1], ends[-1], 180) == [
        (ends[1], ends[4], 8),
        (ends[4], ends[5], 0),  # the last ends with the window
    ]
    assert await _counts(units_of_work, other, ends[1], ends[2]) == [(ends[1], ends[2], 1)]


async def test_a_sign_is_not_given_again_soon_after_another(units_of_work: UnitsOfWork):
    project = a_project()
    sensor = a_sensor(project)
    await keep(units_of_work, project, sensor)
    given_at = [later(0), later(4.999999), later(5), later(9), later(10), later(8)]
    async with committed(units_of_work) as uow:
        for at in given_at:
            uow.sensors.renew_sign_of_life(sensor.id, at, unless_since=at - timedelta(seconds=5))
    assert (await kept(units_of_work, sensor)).last_seen_at == later(10)
    assert [count for *_, count in await _counts(units_of_work, sensor, NOW, later(10))] == [3]


async def test_a_sign_that_is_rolled_back_was_none(units_of_work: UnitsOfWork):
    project = a_project()
    sensor = a_sensor(project)
    await keep(units_of_work, project, sensor)
    for sign in (1, 2):
        async with units_of_work.begin(SYSTEM) as uow:
            uow.sensors.renew_sign_of_life(sensor.id, NOW)
            assert (await uow.sensors.get(sensor.id)) == evolve(sensor, last_seen_at=NOW)
        assert [count for *_, count in await _counts(units_of_work, sensor, NOW, later(1))] == [sign - 1]
        async with committed(units_of_work) as uow:
            uow.sensors.renew_sign_of_life(sensor.id, NOW)


# Moments in milliseconds, close enough for buckets to meet and far enough for some to stay empty.
MOMENTS = st.integers(-400_000, 400_000)
WINDOWS = st.tuples(MOMENTS, MOMENTS).filter(lambda edges: edges[0] != edges[1]).map(sorted)


def test_buckets_hold_what_a_naive_count_finds(runner: asyncio.Runner, units_of_work: UnitsOfWork):
    @given(st.lists(MOMENTS, max_size=20), WINDOWS, st.integers(1, 6))
    @example([-1, 0, 59_999, 60_000], [0, 60_000], 1)
    @example([], [-1, 1], 2)
    def agrees(signs: list[int], edges: list[int], minutes: int) -> None:
        runner.run(_agrees(units_of_work, signs, edges, minutes))

    agrees()


async def _agrees(units: UnitsOfWork, signs: Sequence[int], edges: Sequence[int], minutes: int) -> None:
    project = a_project()
    sensor, other = a_sensor(project), a_sensor(project)
    await keep(units, project, sensor, other)
    base = minute_of(NOW)
    async with committed(units) as uow:
        for sign in signs:
            uow.sensors.renew_sign_of_life(sensor.id, base + timedelta(milliseconds=sign))
            uow.sensors.renew_sign_of_life(other.id, base)
    start, end = (base + timedelta(milliseconds=edge) for edge in edges)
    # In whole minutes from the base on, since there are none between them.
    first, last = edges[0] // 60_000, -(-edges[1] // 60_000)
    expected: list[tuple[datetime, datetime, int]] = []
    for since in range(first, last, minutes):
        until = min(since + minutes, last)
        count = sum(since * 60_000 <= sign < until * 60_000 for sign in signs)
        expected.append((base + since * MINUTE, base + until * MINUTE, count))
    assert await _counts(units, sensor, start, end, minutes * 60) == expected


@pytest.mark.parametrize("days", [1, 7])
async def test_the_longest_windows_are_answered(units_of_work: UnitsOfWork, days: int):
    project = a_project()
    sensor = a_sensor(project)
    await keep(units_of_work, project, sensor)
    async with committed(units_of_work) as uow:
        uow.sensors.renew_sign_of_life(sensor.id, NOW)
    found = await _counts(units_of_work, sensor, NOW - MOST_BUCKETS * timedelta(days=days) + MINUTE, NOW, days * 86_400)
    assert len(found) == MOST_BUCKETS
    assert [count for *_, count in found] == [*[0] * (MOST_BUCKETS - 1), 1]
    assert days * 86_400 <= LONGEST_BUCKET


async def test_old_signs_are_forgotten_so_many_at_once(units_of_work: UnitsOfWork):
    project = a_project()
    sensor, other = a_sensor(project), a_sensor(project)
    await keep(units_of_work, project, sensor, other)
    old = minute_of(NOW) - timedelta(days=365)  # older than any other test's
    async with committed(units_of_work) as uow:
        for number in range(5):
            uow.sensors.renew_sign_of_life([sensor, other][number % 2].id, old + number * MINUTE)
        uow.sensors.renew_sign_of_life(sensor.id, old + 5 * MINUTE)
    before = old + 5 * MINUTE
    for expected in (3, 2, 0):
        async with committed(units_of_work) as uow:
            assert await uow.sensors.forget_signs_of_life(before, most=3) == expected
    assert [count for *_, count in await _counts(units_of_work, sensor, old, old + 6 * MINUTE)] == [0, 0, 0, 0, 0, 1]
    assert [count for *_, count in await _counts(units_of_work, other, old, old + 6 * MINUTE)] == [0] * 6
    with pytest.raises(RuntimeError):
        await ask(units_of_work, lambda uow: uow.sensors.forget_signs_of_life(later(60), most=3))


def _ages() -> dict[str, tuple[datetime | None, Connection]]:
    edge = timedelta(microseconds=1)
    return {
        "never": (None, Connection.OFFLINE),
        "ahead": (NOW + edge, Connection.ONLINE),
        "now": (NOW, Connection.ONLINE),
        "online still": (NOW - ONLINE_FOR + edge, Connection.ONLINE),
        "delayed at once": (NOW - ONLINE_FOR, Connection.DELAYED),
        "delayed still": (NOW - DELAYED_FOR + edge, Connection.DELAYED),
        "offline at once": (NOW - DELAYED_FOR, Connection.OFFLINE),
        "long ago": (NOW - timedelta(days=900), Connection.OFFLINE),
    }


async def test_sensors_are_counted_by_their_last_sign(units_of_work: UnitsOfWork):
    project, other, third = (a_project() for _ in range(3))
    await keep(units_of_work, project, other, third)
    statuses = [SensorStatus.ACTIVE, SensorStatus.INACTIVE]
    sensors = [
        a_sensor(project, name=name, last_seen_at=seen, status=statuses[number % 2])
        for number, (name, (seen, _)) in enumerate(_ages().items())
    ]
    retired = a_sensor(project, last_seen_at=NOW, status=SensorStatus.RETIRED)
    foreign = a_sensor(other, last_seen_at=NOW)
    await keep(units_of_work, *sensors, retired, foreign)
    async with committed(units_of_work) as uow:  # counted once, however it is seen
        uow.sensors.share(sensors[0].id, other.id, NOW, "ann")
        uow.sensors.share(foreign.id, project.id, NOW, "ann")
    async with units_of_work.begin(SYSTEM, read_only=True) as uow:
        summary = uow.sensors.status_summary
        everything = StatusSummary(online=4, delayed=2, offline=3)
        assert await summary([project.id], NOW) == everything
        assert await summary([project.id, other.id], NOW) == everything
        assert await summary([other.id], NOW) == StatusSummary(online=1, offline=1)
        assert await summary([other.id, third.id], later(30)) == StatusSummary(delayed=1, offline=1)
        assert await summary([third.id], NOW) == await summary([], NOW) == StatusSummary()
    assert everything.total == 9


async def test_lists_are_narrowed_by_connection(units_of_work: UnitsOfWork):
    project = a_project()
    sensors = [a_sensor(project, name=name, last_seen_at=seen) for name, (seen, _) in _ages().items()]
    await keep(units_of_work, project, *sensors)
    for wanted in ([], [Connection.ONLINE], [Connection.OFFLINE, Connection.DELAYED], list(Connection)):
        which = SensorFilter(project_ids={project.id}, connections=wanted, as_of=NOW)
        pages = await all_pages(
            lambda limit, after: ask(units_of_work, lambda uow: uow.sensors.page(which, limit=limit, after=after)),  # noqa: B023
            2,
        )
        found = {sensor.name for page in pages for sensor in page}
        assert found == {name for name, (_, is_now) in _ages().items() if not wanted or is_now in wanted}


async def test_a_sensor_is_shared_with_projects(units_of_work: UnitsOfWork):
    project, one, two, three = (a_project() for _ in range(4))
    sensor, other = a_sensor(project), a_sensor(one)
    await keep(units_of_work, project, one, two, three, sensor, other)
    async with committed(units_of_work) as uow:
        uow.sensors.share(sensor.id, three.id, later(1), "ann")
        uow.sensors.share(sensor.id, two.id, later(2), "ann")
        uow.sensors.share(sensor.id, one.id, later(2), "ann")
    async with committed(units_of_work) as uow:
        uow.sensors.share(sensor.id, three.id, later(9), "ben")
    async with units_of_work.begin(SYSTEM) as uow:
        assert list(await uow.sensors.projects_of(sensor.id)) == [project.id, three.id, one.id, two.id]
        assert list(await uow.sensors.projects_of(other.id)) == [one.id]
        assert list(await uow.sensors.projects_of(fresh())) == []
    async with committed(units_of_work) as uow:
        uow.sensors.unshare(sensor.id, three.id)
        uow.sensors.unshare(sensor.id, fresh())
    assert list(await ask(units_of_work, lambda uow: uow.sensors.projects_of(sensor.id))) == [
        project.id,
        one.id,
        two.id,
    ]


async def test_sensors_and_projects_that_are_shared_are_there(units_of_work: UnitsOfWork):
    project = a_project()
    sensor = a_sensor(project)
    await keep(units_of_work, project, sensor)
    async with refused(units_of_work, "reference_missing") as uow:
        uow.sensors.share(sensor.id, fresh(), later(0), "ann")
    async with refused(units_of_work, "reference_missing") as uow:
        uow.sensors.share(fresh(), project.id, later(0), "ann")


async def test_a_sensor_is_removed_with_all_that_is_its_own(units_of_work: UnitsOfWork):
    project, other = a_project(), a_project()
    experiment = an_experiment(project)
    run, sensor = a_run(experiment), a_sensor(project)
    profile = a_profile(sensor)
    await keep(units_of_work, project, other, experiment, run, sensor, profile)
    async with committed(units_of_work) as uow:
        uow.sensors.share(sensor.id, other.id, later(0), "ann")
        uow.runs.bind(RunSensor(run_id=run.id, sensor_id=sensor.id, bound_at=later(0), bound_by="ann"))
        uow.sensors.renew_sign_of_life(sensor.id, NOW)
    async with committed(units_of_work) as uow:
        uow.sensors.remove(sensor)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.sensors.get(sensor.id) is None
        assert await uow.conversion_profiles.get(profile.id) is None
        assert list(await uow.runs.sensors_of(run.id)) == []
        assert list(await uow.sensors.projects_of(sensor.id)) == []
        assert await uow.sensors.by_token(sensor.token_hash, later(0)) is None
    assert [count for *_, count in await _counts(units_of_work, sensor, NOW, later(1))] == [0]


async def test_a_sensor_that_took_part_is_not_removed(units_of_work: UnitsOfWork):
    project = a_project()
    experiment = an_experiment(project)
    run, sensor = a_run(experiment), a_sensor(project)
    profile = a_profile(sensor)
    pin = Pin(sensor_id=sensor.id, profile_id=profile.id, profile_version=1)
    await keep(units_of_work, project, experiment, run, sensor, profile, a_session(run, pins=(pin,)))
    async with refused(units_of_work, "reference_missing") as uow:
        uow.sensors.remove(sensor)
    assert await kept(units_of_work, sensor) == sensor
    assert await kept(units_of_work, profile) == profile


async def _names(units: UnitsOfWork, project: Project, **values: Any) -> str:
    which = SensorFilter(**{"project_ids": {project.id}, **values})
    page = await ask(units, lambda uow: uow.sensors.page(which, limit=100, after=None))
    return "".join(sensor.name[0] for sensor in page.items)


async def test_filters_narrow(units_of_work: UnitsOfWork):
    project, other = a_project(), a_project()
    sensors = [
        a_sensor(project, name="a Upper rig", sensor_type="RTD", created_at=later(1)),
        a_sensor(project, name="b lower RIG", status=SensorStatus.ACTIVE, created_at=later(2)),
        a_sensor(project, name="c 100%", status=SensorStatus.RETIRED, created_at=later(3)),
        a_sensor(other, name="x", created_at=later(4)),
        a_sensor(other, name="y", created_at=later(5)),
    ]
    await keep(units_of_work, project, other, *sensors)
    async with committed(units_of_work) as uow:
        uow.sensors.share(sensors[3].id, project.id, later(0), "ann")
    expected: list[tuple[dict[str, Any], str]] = [
        ({}, "xcba"),
        ({"project_ids": {other.id}}, "yx"),
        ({"project_ids": {other.id, project.id}}, "yxcba"),
        ({"project_ids": ()}, ""),
        ({"statuses": [SensorStatus.ACTIVE, SensorStatus.RETIRED]}, "cb"),
        ({"sensor_types": ["RTD"]}, "a"),
        ({"sensor_types": ["RTD", "thermocouple"]}, "xcba"),
        ({"words": "rig"}, "ba"),
        ({"words": "rig UPPER"}, "a"),
        ({"words": "%"}, ""),
        ({"words": "100%"}, "c"),
        ({"statuses": ["active"], "sensor_types": ["thermocouple"], "words": "low"}, "b"),
        ({"statuses": ["active"], "sensor_types": ["RTD"]}, ""),
    ]
    for values, names in expected:
        assert await _names(units_of_work, project, **values) == names, values


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_pages_are_newest_first(units_of_work: UnitsOfWork, limit: int):
    project, other = a_project(), a_project()
    sensors = [a_sensor([project, other][number % 2], created_at=later(number // 3)) for number in range(8)]
    await keep(units_of_work, project, other, *sensors)
    async with committed(units_of_work) as uow:
        for sensor in sensors[1::2]:
            uow.sensors.share(sensor.id, project.id, later(0), "ann")
    which = SensorFilter(project_ids={project.id, other.id})
    pages = await all_pages(
        lambda limit, after: ask(units_of_work, lambda uow: uow.sensors.page(which, limit=limit, after=after)), limit
    )
    found: list[Sensor] = [sensor for page in pages for sensor in page]
    assert found == sorted(sensors, key=lambda sensor: (sensor.created_at, sensor.id), reverse=True)
