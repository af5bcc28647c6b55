"""The same commands and questions on memory and on PostgreSQL: the same answers, refusals and readings."""

import asyncio
import math
from array import array
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from entities import NOW, SettableClock, a_batch, a_column, fresh
from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain import Services, System, User, Work
from experiment_domain.audit import AuditFilter
from experiment_domain.captures import CaptureStatus
from experiment_domain.cards import RunCard
from experiment_domain.conversions.rules import Linear, ProfileKind
from experiment_domain.experiments import SORTS, ExperimentFilter, ExperimentStatus
from experiment_domain.kernel.access import Principal, Role, SensorToken
from experiment_domain.kernel.entity import Page
from experiment_domain.kernel.errors import Conflict, NotFound, Refusal
from experiment_domain.kernel.ids import Ids
from experiment_domain.runs import RunFilter, RunStatus, Tagging
from experiment_domain.sensors import SensorFilter, token_hash
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.statistics import Statistics
from experiment_domain.telemetry.store import Layer, ReadingQuery
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.cards import SummarisedCard
from experiment_domain.usecases.sensors import SensorWithToken

pytestmark = pytest.mark.timeout(3_600)  # for the nights, when far more is tried

T0 = micros(NOW)
SECOND = 1_000_000
SECRET = {"token", "token_hash", "previous_token_hash"}
"""Random by design, and so never the same."""
OWN = {(SummarisedCard, "tag"), (RunCard, "readings")}
"""What each adapter may put in words of its own."""


class AscendingIds(Ids):
    """The numbers after a beginning, as identifiers: nobody else's, and the same for both adapters."""

    def __init__(self, beginning: UUID) -> None:
        self._last = beginning.int

    def new(self) -> UUID:
        self._last += 1
        return UUID(int=self._last)


class Side:
    """One adapter, with a clock and ids of its own that run like the other's."""

    def __init__(self, units: UnitsOfWork, beginning: UUID) -> None:
        self.clock = SettableClock()
        self.units = units
        self.services = Services(units_of_work=units, clock=self.clock, ids=AscendingIds(beginning))
        self.tokens: dict[UUID, str] = {}

    async def do(self, use: Callable[[Work], Awaitable[Any]], by: Principal | UUID, *, reads: bool = False) -> Any:
        """The answer, or the refusal. A sensor's id stands for its token."""
        principal = SensorToken(token_hash=token_hash(self.tokens[by])) if isinstance(by, UUID) else by
        try:
            async with (self.services.read if reads else self.services.begin)(principal) as work:
                answer = await use(work)
        except Refusal as refusal:
            return type(refusal).__name__, refusal.code, refusal.facts
        if isinstance(answer, SensorWithToken):
            self.tokens[answer.sensor.id] = answer.token
        return answer


def same(one: Any, other: Any, path: str = "answer") -> None:
    """Both are equal; of statistics, sums may be rounded in another order."""
    if isinstance(one, Statistics) and isinstance(other, Statistics):
        for name in ("count", "minimum", "maximum", "first", "last"):
            same(getattr(one, name), getattr(other, name), f"{path}.{name}")
        scale = max(abs(one.minimum), abs(one.maximum))
        assert one.mean == pytest.approx(other.mean, rel=1e-9, abs=1e-12 * scale), path
        assert one.deviation == pytest.approx(other.deviation, rel=1e-9, abs=1e-7 * scale), path
    elif attrs.has(type(one)):
        assert type(one) is type(other), path
        for field in attrs.fields(type(one)):
            if field.name not in SECRET and (type(one), field.name) not in OWN:
                same(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(one, Refusal):
        same(one.facts, other.facts, f"{path}.facts")
        assert (type(one), one.code, one.detail) == (type(other), other.code, other.detail), path
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), path
        for key in one:
            same(one[key], other[key], f"{path}[{key!r}]")
    elif isinstance(one, list | tuple | array):
        assert len(one) == len(other), path
        for place, (mine, others) in enumerate(zip(one, other, strict=True)):
            same(mine, others, f"{path}[{place}]")
    elif isinstance(one, float) and math.isnan(one):
        assert math.isnan(other), path
    else:
        assert one == other, path


# Most of what is done is done by who may do it: else little would ever happen.
PEOPLE = st.sampled_from(["owner"] * 12 + ["editor"] * 2 + ["viewer", "outsider"])
NAMES = st.sampled_from(["a", "B", "b", "Ärger", "a b", "𝒜", "100%", "x_y"])
TAGS = st.lists(st.sampled_from(["hot", "cold", "long"]), max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e15, 1e15) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.sampled_from(["rate", "grade", "dry"]), JSON, max_size=3)
OFFSETS = st.integers(-3, 12)
READINGS = st.lists(
    st.tuples(
        st.sampled_from(["value", "value", "other"]),
        st.lists(st.tuples(OFFSETS, st.integers(-30, 130).map(float)), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=3,
)


def _known(noun: str) -> st.SearchStrategy[Any]:
    return st.runner().flatmap(lambda machine: st.sampled_from(machine.known[noun]))


NOUNS = ("experiment", "run", "session", "sensor", "profile", "artifact")
experiments, runs, sessions, sensors, profiles, artifacts = map(_known, NOUNS)
several_runs = st.runner().flatmap(
    lambda machine: st.lists(st.sampled_from(machine.known["run"]), min_size=1, max_size=4)
)


class Agreement(RuleBasedStateMachine):
    """Whatever is done to the one is done to the other."""

    def __init__(self, runner: asyncio.Runner, postgres: UnitsOfWork) -> None:
        super().__init__()
        self.runner = runner
        beginning = fresh()
        self.sides = (Side(MemoryUnitsOfWork(), beginning), Side(postgres, beginning))
        self.people = {name: User(id=f"{name}-{beginning}") for name in ("owner", "editor", "viewer", "outsider")}
        self.projects: list[UUID] = []
        self.known: dict[str, list[UUID]] = {noun: [] for noun in NOUNS}

    def do(
        self, use: Callable[[Work], Awaitable[Any]], by: str | UUID | System = "owner", *, reads: bool = False
    ) -> Any:
        """The answer of memory, after it was seen to be PostgreSQL's."""
        principal = self.people[by] if isinstance(by, str) else by

        async def both() -> list[Any]:
            return [await side.do(use, principal, reads=reads) for side in self.sides]

        one, other = self.runner.run(both())
        same(one, other)
        return one

    def ask(self, use: Callable[[Work], Awaitable[Any]], by: str = "owner") -> Any:
        return self.do(use, by, reads=True)

    def keep(self, noun: str, answer: Any) -> None:
        if isinstance(answer, SensorWithToken):
            self.known[noun].append(answer.sensor.id)
        elif attrs.has(type(answer)):
            self.known[noun].append(answer.id)

    @initialize()
    def open(self) -> None:
        for name in ("owner", "outsider"):
            project = self.do(lambda work: work.projects.create(name="P", future_tolerance=60.0), name)
            self.projects.append(project.id)
        for name in ("editor", "viewer"):
            self.do(lambda work: work.projects.put_member(self.projects[0], self.people[name].id, Role(name)))  # noqa: B023
        self.create_experiment("outsider", "foreign", [], {})
        self.create_experiment("owner", "a", ["hot"], {})
        for number in range(2):
            self.create_run("owner", self.known["experiment"][1], "a", ["hot"], {"rate": 0.5}, "abcdef0")
            self.register("owner", "S")
            self.draft_profile("owner", self.known["sensor"][number], 2.0, 1.0)
            self.move_profile("owner", self.known["profile"][number], "publish")
        for sensor_id in self.known["sensor"]:
            self.bind("owner", self.known["run"][0], sensor_id)
        self.move_run("owner", self.known["run"][0], "start")
        self.create_session("owner", self.known["run"][0], True)
        self.create_session("owner", self.known["run"][1], False)
        for number in range(2):
            self.register_artifact("owner", self.known["run"][0], "a", {})
            self.move_artifact("owner", self.known["artifact"][number], "approve")

    @rule(seconds=st.sampled_from([0.000001, 1, 30, 3_600]))
    def time_passes(self, seconds: float) -> None:
        for side in self.sides:
            side.clock.pass_by(seconds)

    @rule(by=PEOPLE, policy=st.sampled_from([{}, {"physical_only": True}, {"raw_readers": ["viewer", "owner"]}]))
    def edit_project(self, by: str, policy: dict[str, Any]) -> None:
        self.do(lambda work: work.projects.edit(self.projects[0], **policy), by)

    @rule(by=PEOPLE, name=st.sampled_from(["editor", "viewer", "outsider"]), role=st.sampled_from([*Role, None]))
    def change_member(self, by: str, name: str, role: Role | None) -> None:
        user_id, project_id = self.people[name].id, self.projects[0]
        if role is None:
            self.do(lambda work: work.projects.remove_member(project_id, user_id), by)
        else:
            self.do(lambda work: work.projects.put_member(project_id, user_id, role), by)
        self.ask(lambda work: work.projects.members(project_id), by)

    @rule(by=PEOPLE, name=NAMES, tags=TAGS, metadata=OBJECTS)
    def create_experiment(self, by: str, name: str, tags: list[str], metadata: dict[str, Any]) -> None:
        project_id = self.projects[by == "outsider"]
        values = {"name": name, "tags": tags, "metadata": metadata, "description": name * 2}
        self.keep("experiment", self.do(lambda work: work.experiments.create(project_id=project_id, **values), by))

    @rule(by=PEOPLE, it=experiments, name=NAMES, params=OBJECTS, tags=TAGS, sha=st.sampled_from([None, "abcdef012"]))
    def create_run(
        self, by: str, it: UUID, name: str, tags: list[str], params: dict[str, Any], sha: str | None
    ) -> None:
        values = {"name": name, "params": params, "tags": tags, "git_sha": sha, "notes": name}
        self.keep("run", self.do(lambda work: work.runs.create(it, **values), by))

    @rule(by=PEOPLE, name=NAMES)
    def register(self, by: str, name: str) -> None:
        values = {"name": name, "sensor_type": "T", "input_unit": "V", "display_unit": "K"}
        project_id = self.projects[by == "outsider"]
        self.keep("sensor", self.do(lambda work: work.sensors.register(project_id=project_id, **values), by))

    @rule(by=PEOPLE, it=runs, start=st.booleans())
    def create_session(self, by: str, it: UUID, start: bool) -> None:
        self.keep("session", self.do(lambda work: work.captures.create(it, start=start), by))

    @rule(by=PEOPLE, it=sensors, a=st.sampled_from([0.5, 2.0]), b=st.sampled_from([-1.0, 0.1]))
    def draft_profile(self, by: str, it: UUID, a: float, b: float) -> None:
        values: dict[str, Any] = {"kind": ProfileKind.LINEAR, "parameters": Linear(a, b).parameters}
        self.keep(
            "profile",
            self.do(lambda work: work.conversions.draft(it, valid_range={"min": 0, "max": 100}, **values), by),
        )

    @rule(by=PEOPLE, it=experiments, verb=st.sampled_from(["start", "finish", "fail", "archive", "delete"]))
    def move_experiment(self, by: str, it: UUID, verb: str) -> None:
        self.do(lambda work: getattr(work.experiments, verb)(it), by)

    @rule(by=PEOPLE, it=runs, verb=st.sampled_from(["start", "start", "finish", "fail", "archive", "delete"]))
    def move_run(self, by: str, it: UUID, verb: str) -> None:
        self.do(lambda work: getattr(work.runs, verb)(it), by)

    @rule(by=PEOPLE, run_ids=several_runs, status=st.sampled_from(RunStatus), atomic=st.booleans())
    def set_statuses(self, by: str, run_ids: list[UUID], status: RunStatus, atomic: bool) -> None:
        self.do(lambda work: work.runs.set_statuses(run_ids, status, reason="all", atomic=atomic), by)

    @rule(by=PEOPLE, run_ids=several_runs, tags=TAGS, others=st.none() | TAGS)
    def tag(self, by: str, run_ids: list[UUID], tags: list[str], others: list[str] | None) -> None:
        others = others and [tag for tag in others if tag not in tags]
        tagging = Tagging.create(set_tags=tags) if others is None else Tagging.create(add_tags=tags, remove_tags=others)
        self.do(lambda work: work.runs.tag(run_ids, tagging), by)

    @rule(by=PEOPLE, it=runs, name=NAMES, metadata=OBJECTS)
    def register_artifact(self, by: str, it: UUID, name: str, metadata: dict[str, Any]) -> None:
        values: dict[str, Any] = {"name": name, "uri": "s3://models/m.onnx", "kind": "model", "metadata": metadata}
        self.keep("artifact", self.do(lambda work: work.artifacts.register(it, **values), by))

    @rule(by=PEOPLE, it=artifacts, verb=st.sampled_from(["approve", "approve", "reject", "revoke", "resubmit"]))
    def move_artifact(self, by: str, it: UUID, verb: str) -> None:
        self.do(lambda work: getattr(work.artifacts, verb)(it, reason="seen"), by)

    @rule(by=PEOPLE, it=sessions, verb=st.sampled_from(["start", "succeed", "fail", "archive", "delete", "restore"]))
    def move_session(self, by: str, it: UUID, verb: str) -> None:
        outcome = {"succeed": CaptureStatus.SUCCEEDED, "fail": CaptureStatus.FAILED}.get(verb)
        if outcome:
            self.do(lambda work: work.captures.stop(it, outcome), by)
        else:
            self.do(lambda work: getattr(work.captures, verb)(it), by)

    @rule(by=PEOPLE, it=sensors, verb=st.sampled_from(["activate", "deactivate", "retire", "delete", "rotate_token"]))
    def move_sensor(self, by: str, it: UUID, verb: str) -> None:
        self.do(lambda work: getattr(work.sensors, verb)(it), by)

    @rule(by=PEOPLE, it=profiles, verb=st.sampled_from(["publish", "publish", "retire"]))
    def move_profile(self, by: str, it: UUID, verb: str) -> None:
        self.do(lambda work: getattr(work.conversions, verb)(it), by)

    @rule(by=PEOPLE, it=runs, name=NAMES, version=st.none() | st.integers(1, 4))
    def edit_run(self, by: str, it: UUID, name: str, version: int | None) -> None:
        self.do(lambda work: work.runs.edit(it, if_version=version, notes=name, params={"grade": name}), by)

    @rule(by=PEOPLE, it=runs, sensor_id=sensors)
    def bind(self, by: str, it: UUID, sensor_id: UUID) -> None:
        self.do(lambda work: work.runs.bind(it, sensor_id), by)

    @rule(by=PEOPLE, it=runs, sensor_id=sensors)
    def unbind(self, by: str, it: UUID, sensor_id: UUID) -> None:
        self.do(lambda work: work.runs.unbind(it, sensor_id), by)

    @rule(it=sensors, back=st.booleans())
    def share(self, it: UUID, back: bool) -> None:
        owner, other = self.people["owner"].id, self.projects[1]
        self.do(lambda work: work.projects.put_member(other, owner, Role.EDITOR), "outsider")
        self.do(lambda work: (work.sensors.unshare if back else work.sensors.share)(it, other))
        self.ask(lambda work: work.sensors.projects(it))

    @rule(it=sensors)
    def heartbeat(self, it: UUID) -> None:
        self.do(lambda work: work.sensors.heartbeat(it), it)

    @rule(
        it=sensors,
        session_id=st.none() | sessions,
        readings=READINGS,
        batch_id=st.sampled_from([None, None, None, "b-1", "b-2"]),
        ahead=st.sampled_from([0, 0, 0, 0, 600]),
    )
    def ingest(self, it: UUID, session_id: UUID | None, readings: Any, batch_id: str | None, ahead: int) -> None:
        columns = [
            a_column([T0 + (offset + ahead) * SECOND for offset, _ in part], [value for _, value in part], signal)
            for signal, part in readings
        ]
        batch = a_batch(*columns, session=session_id, batch_id=batch_id)
        for _ in range(2):  # the second time it is a repetition, or refused as before
            self.do(lambda work: work.telemetry.ingest(batch), it)

    # Questions.

    @rule(
        by=PEOPLE,
        it=sessions,
        sensor_id=sensors,
        signal=st.sampled_from(["value", "other", "none"]),
        layer=st.sampled_from([None, *Layer]),
        window=st.tuples(st.none() | OFFSETS, st.none() | OFFSETS, st.none() | OFFSETS),
        limit=st.integers(1, 8),
    )
    def read(
        self, by: str, it: UUID, sensor_id: UUID, signal: str, layer: Layer | None, window: Any, limit: int
    ) -> None:
        start, end, after = (None if offset is None else T0 + offset * SECOND for offset in window)
        query = ReadingQuery(
            capture_session_id=it,
            sensor_id=sensor_id,
            signal=signal,
            layer=Layer.PHYSICAL,
            start=start,
            end=end,
            after=after,
            limit=limit,
        )
        self.ask(lambda work: work.telemetry.read(query, layer=layer), by)

    @rule(by=PEOPLE, it=runs, layer=st.sampled_from([None, *Layer]), signals=st.sampled_from([(), ("other",)]))
    def metrics(self, by: str, it: UUID, layer: Layer | None, signals: tuple[str, ...]) -> None:
        self.ask(lambda work: work.telemetry.metrics(it, layer=layer, signals=signals), by)

    @rule(
        by=PEOPLE,
        sort=st.sampled_from([f"{way}{name}" for name in SORTS for way in ("", "-")]),
        limit=st.integers(1, 4),
        filters=st.fixed_dictionaries(
            {},
            optional={
                "statuses": st.lists(st.sampled_from(RunStatus), max_size=2),
                "tags": TAGS,
                "any_tags": TAGS,
                "git_shas": st.sampled_from([["abcdef0"], ["abcdef1"]]),
                "params": st.sampled_from([[("rate", "0.5")], [("grade", "B"), ("grade", "b")], [("dry", "true")]]),
                "words": st.sampled_from(["a", "B", "0%", "_", "a b", "Är"]),
                "created_after": st.sampled_from([NOW, NOW + timedelta(seconds=1)]),
                "started_before": st.sampled_from([NOW, NOW + timedelta(seconds=31)]),
            },
        ),
        of_runs=st.booleans(),
    )
    def page(self, by: str, sort: str, limit: int, filters: dict[str, Any], of_runs: bool) -> None:
        after = None
        for _ in range(4):
            if of_runs:
                runs_wanted = RunFilter(project_ids=(), **filters)
                found: Any = self.ask(
                    lambda work: work.runs.page(runs_wanted, sort=sort, limit=limit, after=after),  # noqa: B023
                    by,
                )
            else:
                common = {name: value for name, value in filters.items() if name in attrs.fields_dict(ExperimentFilter)}
                wanted = ExperimentFilter(project_ids=(), **common)
                found = self.ask(
                    lambda work: work.experiments.page(wanted, sort=sort, limit=limit, after=after),  # noqa: B023
                    by,
                )
            assert isinstance(found, Page)
            after = found.next
            if after is None:
                return

    @rule(by=PEOPLE, limit=st.integers(1, 3), words=st.sampled_from([None, "a", "S"]))
    def other_pages(self, by: str, limit: int, words: str | None) -> None:
        self.ask(lambda work: work.sensors.page(SensorFilter(project_ids=(), words=words), limit=limit), by)
        self.ask(lambda work: work.projects.page(limit=limit), by)
        self.ask(lambda work: work.captures.page(self.known["run"][0], limit=limit), by)
        self.ask(lambda work: work.conversions.page(self.known["sensor"][0], limit=limit), by)

    @rule(by=PEOPLE, it=runs)
    def card(self, by: str, it: UUID) -> None:
        self.ask(lambda work: work.cards.of_run(it), by)

    @rule(by=PEOPLE, it=sessions, limit=st.integers(1, 3))
    def timeline(self, by: str, it: UUID, limit: int) -> None:
        after = None
        for _ in range(4):
            found = self.ask(lambda work: work.captures.events(it, limit=limit, after=after), by)  # noqa: B023
            if not isinstance(found, Page):
                return
            after = found.next
            if after is None:
                return

    @rule(by=PEOPLE, it=runs, limit=st.integers(1, 3), approved=st.none() | st.booleans())
    def artifact_pages(self, by: str, it: UUID, limit: int, approved: bool | None) -> None:
        self.ask(lambda work: work.artifacts.page(it, approved=approved, limit=limit), by)

    @invariant()
    def what_is_shown_is_the_same(self) -> None:
        """The rig at the beginning, which most commands are about."""
        if not self.known["session"]:
            return
        run_id, session_id = self.known["run"][0], self.known["session"][0]

        async def look(work: Work) -> list[Any]:
            return [
                await work.experiments.get(self.known["experiment"][1]),
                await work.runs.get(run_id),
                await work.runs.sensors(run_id),
                await work.telemetry.series(session_id),
                await work.telemetry.metrics(run_id),
                await work.cards.of_run(run_id),
                await work.captures.events(session_id, limit=100),
            ]

        self.ask(look)

    def teardown(self) -> None:
        async def records(units: UnitsOfWork) -> list[Any]:
            async with units.begin(System(), read_only=True) as uow:
                nouns = {noun: noun for noun in ("experiment", "run", "sensor", "artifact")}
                nouns["session"] = "capture_session"
                history = [
                    await uow.history.of(name, entity_id)
                    for noun, name in nouns.items()
                    for entity_id in self.known[noun]
                ]
                of = lambda project_id: AuditFilter(project_ids=[project_id])  # noqa: E731
                return [
                    history,
                    [await uow.audit.page(of(project_id), limit=100_000, after=None) for project_id in self.projects],
                ]

        one, other = (self.runner.run(records(side.units)) for side in self.sides)
        same(one, other, "records")


@pytest.mark.postgres
def test_memory_and_postgres_agree(runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork):
    few = settings(max_examples=max(12, settings().max_examples // 4))

    class HereAndNow(Agreement):
        def __init__(self) -> None:
            super().__init__(runner, postgres_units_of_work)

    run_state_machine_as_test(HereAndNow, settings=few)


def test_what_is_not_the_same_is_seen():
    status: Any = ExperimentStatus.DRAFT
    same([1, {"a": math.nan}, status], (1, {"a": math.nan}, "draft"))
    for one, other in (
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        ([0.1], [0.2]),
        (math.nan, 0.0),
        (Statistics.of([1.0, 2.0]), Statistics.of([1.0, 3.0])),
        (Statistics.of([1.0, 2.0]), None),
        (NotFound("run"), NotFound("sensor")),
        (Conflict("archived", "It is."), Conflict("archived", "It is.", items=[])),
    ):
        with pytest.raises((AssertionError, TypeError)):
            same(one, other)
