"""What every filter of the lists finds: the same in memory and in PostgreSQL, alone and together, page by page."""

import asyncio
import random
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entities import NOW, a_profile, a_project, a_run, a_sensor, a_session, an_experiment, later
from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_adapters.postgres import search
from experiment_domain.captures import CaptureStatus, Pin
from experiment_domain.experiments import SORTS
from experiment_domain.runs import Run, RunFilter, RunSensor, RunStatus
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import all_pages, ask, committed, keep

RUNS = 80
NAMES = ("Pump run", "pump-2 Größe", "ＲＵＮ ①", "Straße 7", "x_y 100%", "漢字 pumps", "é e\u0301", "İstanbul")
NOTES = (None, "", "the seal's leak", "LEAKS \\ 'quoted' :* & | !", "grosse pumpe", "\u0915\u093f a:b", "z" * 150)
TAGS = ("hot", "cold", "long", "it's", '"', "a,b", "{}", "NULL", "\\")
PEOPLE = ("ann", "ben", "eve")
SHAS = (None, "abcdef0123", "abcdef0999", "abcdeff", "fffffff")
PARAMS = ("0.5", "1", "true", "316L", "null", "600", "", "1e400", "9" * 400, "[" * 3_000, "-0", "9" * 20, '"1"')
VALUES = (0.5, 1, True, "1", "true", "316L", None, 600.0, "", [1], {"a": 1}, 1e20, -0.0, "1e400")
WORDS = (
    "pump",
    "PUMPS",
    "run 1",
    "größe",
    "GROSSE",
    "strass",
    "leak seal",
    "100%",
    "%",
    "!!!",
    " ",
    "",
    "\\",
    "'",
    "x_y",
)
WORDS = (*WORDS, ":*", "a:b", "é", "istanbul", "z" * 120, "zzz", "漢", "1", "e", "quoted & pump", "nothing", "\u0915")


@frozen
class Both:
    """The same runs twice, and what is there to ask for."""

    project_ids: Collection[UUID]
    memory: UnitsOfWork
    postgres: UnitsOfWork
    filters: st.SearchStrategy[RunFilter]


@pytest.fixture(scope="module")
def both(runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork) -> Iterator[Both]:
    chance = random.Random(7)
    memory = MemoryUnitsOfWork()
    projects = [a_project() for _ in range(3)]
    experiments = [an_experiment(project) for project in projects for _ in range(2)]
    sensors = [a_sensor(projects[0]) for _ in range(4)]
    profiles = [a_profile(sensor) for sensor in sensors]

    def moment() -> Any:
        return chance.choice([None, *map(later, range(6))])

    runs = [
        a_run(
            chance.choice(experiments),
            name=chance.choice(NAMES),
            notes=chance.choice(NOTES),
            tags=tuple(chance.sample(TAGS, chance.randint(0, 3))),
            participants=tuple(chance.sample(PEOPLE, chance.randint(0, 2))),
            params={key: chance.choice(VALUES) for key in ("rate", "grade") if chance.random() < 0.7},
            git_sha=chance.choice(SHAS),
            status=chance.choice(list(RunStatus)),
            created_at=later(chance.randrange(6)),
            started_at=moment(),
            finished_at=moment(),
        )
        for _ in range(RUNS)
    ]
    pins = [
        Pin(sensor_id=sensor.id, profile_id=profile.id, profile_version=1)
        for sensor, profile in zip(sensors, profiles, strict=True)
    ]
    sessions = [
        evolve(
            a_session(run, pins=tuple(chance.sample(pins, chance.randint(0, 2))), status=CaptureStatus.SUCCEEDED),
            deleted_at=chance.choice([None, None, NOW]),
        )
        for run in runs
    ]
    bindings = [
        RunSensor(run_id=run.id, sensor_id=sensor.id, bound_at=NOW, bound_by="ann")
        for run in runs
        for sensor in chance.sample(sensors, chance.randint(0, 2))
    ]

    async def fill(units: UnitsOfWork) -> None:
        await keep(units, *projects, *experiments, *sensors, *profiles, *runs, *sessions)
        async with committed(units) as uow:
            for binding in bindings:
                uow.runs.bind(binding)

    for units in (memory, postgres_units_of_work):
        runner.run(fill(units))

    def some(values: Any, most: int = 2) -> st.SearchStrategy[Any]:
        return st.lists(st.sampled_from(values), min_size=1, max_size=most)

    times = st.sampled_from([NOW + timedelta(seconds=seconds) for seconds in range(-1, 7)])
    filters = st.fixed_dictionaries(
        {"project_ids": some([project.id for project in projects], 3).map(frozenset)},
        optional={
            "experiment_ids": some([experiment.id for experiment in experiments], 3),
            "statuses": some(list(RunStatus), 3),
            "tags": some(TAGS),
            "any_tags": some(TAGS),
            "git_shas": some(["abcdef0", "abcdef01", "fffffff", "0000000"]),
            "participants": some([*PEOPLE, "nobody"]),
            "sensor_ids": some([sensor.id for sensor in sensors]),
            "profile_ids": some([profile.id for profile in profiles]),
            "created_after": times,
            "created_before": times,
            "started_after": times,
            "started_before": times,
            "params": some([(key, text) for key in ("rate", "grade", "none") for text in PARAMS], 3),
            "words": st.sampled_from(WORDS) | st.text(max_size=5).filter(_can_be_sent),
        },
    ).map(_filter)
    # Both ways are gone: the walk that finds enough, and the search where it was given up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "NEAR", 5)
        patch.setattr(search, "NEAR_PER_ROW", 1)
        yield Both([project.id for project in projects], memory, postgres_units_of_work, filters)


def _filter(values: dict[str, Any]) -> RunFilter:
    return RunFilter(**values)


def _can_be_sent(text: str) -> bool:
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


async def _pages(units: UnitsOfWork, which: RunFilter, sort: str, limit: int) -> list[Sequence[Run]]:
    return await all_pages(
        lambda limit, after: ask(units, lambda uow: uow.runs.page(which, sort=sort, limit=limit, after=after)), limit
    )


def test_memory_and_postgres_find_the_same(runner: asyncio.Runner, both: Both) -> None:
    @settings(max_examples=2 * settings().max_examples, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data(), st.sampled_from([f"{way}{name}" for name in SORTS for way in ("", "-")]), st.integers(1, 30))
    def agree(data: st.DataObject, sort: str, limit: int) -> None:
        which = data.draw(both.filters)
        found, expected = (runner.run(_pages(units, which, sort, limit)) for units in (both.postgres, both.memory))
        assert found == expected

    agree()


@pytest.mark.parametrize("words", WORDS)
async def test_the_words_of_a_question(runner: asyncio.Runner, both: Both, words: str) -> None:
    which = RunFilter(project_ids=both.project_ids, words=words)
    found, expected = [await _pages(units, which, "name", RUNS) for units in (both.postgres, both.memory)]
    assert found == expected
    if not words.strip():
        assert len(expected[0]) == RUNS
    else:
        assert (expected == [[]]) == (words in ("!!!", "%", "\\", "'", ":*", "e", "nothing"))
