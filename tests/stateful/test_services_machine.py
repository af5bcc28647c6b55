"""The library in memory against a model of plain dictionaries: any commands, by anybody, in any order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from entities import SettableClock, a_batch, a_column, fresh
from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain import Services, System, User, Work
from experiment_domain.audit import AuditFilter
from experiment_domain.captures import CaptureStatus
from experiment_domain.kernel.access import Principal, Role, SensorToken
from experiment_domain.kernel.errors import Refusal
from experiment_domain.sensors import token_hash
from experiment_domain.telemetry.store import Layer, ReadingQuery

pytestmark = pytest.mark.timeout(3_600)  # for the nights, when far more is tried

PEOPLE = {name: User(id=name) for name in ("ann", "ben", "cid", "dee")}
HOME = {"ann": Role.OWNER, "ben": Role.EDITOR, "cid": Role.VIEWER}
AWAY = {"dee": Role.OWNER, "ann": Role.VIEWER}
EDITORS, OWNERS = (Role.EDITOR, Role.OWNER), (Role.OWNER,)

ENDS = {"finish": "finished", "fail": "failed", "archive": "archived"}
TABLE = {
    "draft": {"running", "archived"},
    "running": {"finished", "failed", "archived"},
    "finished": {"archived"},
    "failed": {"archived"},
    "archived": set[str](),
}
SESSION_TABLE = {
    "draft": {"running", "archived"},
    "running": {"succeeded", "failed"},
    "succeeded": {"archived"},
    "failed": {"archived"},
    "archived": set[str](),
}
SENSOR_TABLE = {
    "registered": {"active", "retired"},
    "active": {"inactive", "retired"},
    "inactive": {"active", "retired"},
    "retired": set[str](),
}
SESSION_EVENTS = {"running": "started", "succeeded": "completed", "failed": "failed", "archived": "archived"}
Row = dict[str, Any]

# Most of what is done is done by who may do it: else little would ever happen.
people = st.sampled_from(["ann"] * 12 + ["ben"] * 2 + ["cid", "dee"])


def _known(noun: str) -> st.SearchStrategy[Any]:
    """The ids of all things of a kind that ever were, the gone ones among them."""
    return st.runner().flatmap(lambda machine: st.sampled_from(machine.known[noun]))


experiments, runs, sessions, sensors = map(_known, ("experiment", "run", "capture_session", "sensor"))
batches = _known("batch")


class ServicesMachine(RuleBasedStateMachine):
    """Every command goes to the services and to the model; both say the same, and are the same afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.units = MemoryUnitsOfWork()
        self.clock = SettableClock()
        self.services = Services(units_of_work=self.units, clock=self.clock)
        self.roles: dict[UUID, dict[str, Role]] = {}
        self.rows: dict[str, dict[UUID, Row]] = {
            noun: {} for noun in ("experiment", "run", "capture_session", "sensor")
        }
        self.known: dict[str, list[Any]] = {**{noun: [] for noun in self.rows}, "batch": []}
        self.tokens: dict[UUID, SensorToken] = {}
        self.history: dict[UUID, list[tuple[str, str, str]]] = {}
        self.events: list[tuple[str, str]] = []
        self.commands = 0
        self.readings: dict[tuple[UUID, UUID], dict[int, tuple[float, bool]]] = {}
        self.receipts: list[tuple[UUID, UUID, str, bytes, int]] = []

    def teardown(self) -> None:
        self.runner.close()

    # What the commands have in common.

    def do(self, use: Callable[[Work], Awaitable[Any]], by: str | Principal) -> Any:
        """The answer, or the code of the refusal."""
        self.clock.pass_by(1)
        principal = PEOPLE[by] if isinstance(by, str) else by

        async def one() -> Any:
            async with self.services.begin(principal) as work:
                return await use(work)

        try:
            return self.runner.run(one())
        except Refusal as refusal:
            return refusal.code

    def access(self, row: Row | None, by: str, roles: Iterable[Role]) -> str | None:
        """The refusal of somebody who may not know of a thing, or not do this to it."""
        if row is None or row.get("deleted"):
            return "not_found"
        role = self.roles[row["project"]].get(by)
        if role is None:
            return "not_found"
        return None if role in roles else "forbidden"

    def step(self, noun: str, entity_id: UUID, target: str, by: str) -> None:
        """Note a transition."""
        row = self.rows[noun][entity_id]
        self.history[entity_id].append((row["status"], target, by))
        row["status"] = target
        row["version"] += 1
        self.commands += 1

    def told(self, kind: str, noun: str, entity_id: UUID) -> None:
        self.events.append((kind, f"{noun}/{entity_id}"))

    def added(self, noun: str, entity_id: UUID, **values: Any) -> None:
        self.rows[noun][entity_id] = {"version": 1, **values}
        self.known[noun].append(entity_id)
        self.history[entity_id] = []
        self.commands += 1

    def sessions_of(self, run_id: UUID, *, deleted: bool = False) -> dict[UUID, Row]:
        return {
            key: row
            for key, row in self.rows["capture_session"].items()
            if row["run"] == run_id and (deleted or not row["deleted"])
        }

    def recording_with(self, sensor_id: UUID, run_id: UUID | None = None) -> list[UUID]:
        return [
            key
            for key, row in self.rows["capture_session"].items()
            if row["status"] == "running" and sensor_id in row["pins"] and run_id in (None, row["run"])
        ]

    # Projects: one at home and one away.

    @initialize()
    def open(self) -> None:
        for owner, members in (("ann", HOME), ("dee", AWAY)):
            project = self.do(lambda work: work.projects.create(name="P"), owner)
            self.roles[project.id] = members
            self.commands += 1
            for name, role in members.items():
                if name != owner:
                    self.do(lambda work: work.projects.put_member(project.id, name, role), owner)  # noqa: B023
                    self.commands += 1
        # Something to begin with: a rig that records, and one that is not yet set up.
        for owner, away in (("ann", False), ("dee", True)):
            self.create_experiment(owner, away)
            self.create_run(owner, self.known["experiment"][-1])
        self.create_run("ann", self.known["experiment"][0])
        recording, _, waiting = self.known["run"]
        for _ in range(2):
            self.register_sensor("ann")
            self.bind("ann", recording, self.known["sensor"][-1])
        self.bind("ann", waiting, self.known["sensor"][0])
        self.start_run("ann", recording)
        self.create_session("ann", recording, True)
        self.create_session("ann", waiting, False)
        self.write_down([(0, 1), (1, 2)], None)

    @rule(by=people, away=st.booleans())
    def create_experiment(self, by: str, away: bool) -> None:
        project_id = list(self.roles)[away]
        answer = self.do(lambda work: work.experiments.create(project_id=project_id, name="E"), by)
        expected = self.access({"project": project_id}, by, EDITORS)
        if expected:
            assert answer == expected
            return
        self.added("experiment", answer.id, project=project_id, status="draft")
        self.told("experiment.created", "experiment", answer.id)

    @rule(by=people, experiment_id=experiments)
    def create_run(self, by: str, experiment_id: UUID) -> None:
        row = self.rows["experiment"].get(experiment_id)
        answer = self.do(lambda work: work.runs.create(experiment_id, name="R"), by)
        expected = self.access(row, by, EDITORS)
        if row and not expected and row["status"] not in {"draft", "running"}:
            expected = "archived" if row["status"] == "archived" else "experiment_over"
        if expected:
            assert answer == expected
            return
        assert row
        self.added(
            "run", answer.id, project=row["project"], experiment=experiment_id, status="draft", sensors=[], notes=None
        )
        self.told("run.created", "run", answer.id)

    @rule(by=people)
    def register_sensor(self, by: str) -> None:
        project_id = next(iter(self.roles))
        values = {"name": "S", "sensor_type": "T", "input_unit": "V", "display_unit": "K"}
        answer = self.do(lambda work: work.sensors.register(project_id=project_id, **values), by)
        expected = self.access({"project": project_id}, by, EDITORS)
        if expected:
            assert answer == expected
            return
        self.added("sensor", answer.sensor.id, project=project_id, status="registered")
        self.tokens[answer.sensor.id] = SensorToken(token_hash=token_hash(answer.token))
        self.told("sensor.registered", "sensor", answer.sensor.id)

    @rule(by=people, run_id=runs, start=st.booleans())
    def create_session(self, by: str, run_id: UUID, start: bool) -> None:
        row = self.rows["run"].get(run_id)
        answer = self.do(lambda work: work.captures.create(run_id, start=start), by)
        expected = self.access(row, by, EDITORS)
        if row and not expected and row["status"] not in {"draft", "running"}:
            expected = "archived" if row["status"] == "archived" else "run_over"
        if row and start and not expected:
            expected = self.start_refusal(run_id)
        if expected:
            assert answer == expected
            return
        assert row
        ordinal = max((it["ordinal"] for it in self.sessions_of(run_id, deleted=True).values()), default=0) + 1
        assert answer.ordinal == ordinal
        self.added(
            "capture_session",
            answer.id,
            project=row["project"],
            run=run_id,
            ordinal=ordinal,
            status="draft",
            deleted=False,
            pins=set(),
        )
        self.told("capture.created", "capture_session", answer.id)
        if start:
            self.started(answer.id, by)

    # Transitions.

    @rule(by=people, experiment_id=experiments, verb=st.sampled_from(["start", *ENDS]))
    def move_experiment(self, by: str, experiment_id: UUID, verb: str) -> None:
        row = self.rows["experiment"].get(experiment_id)
        target = ENDS.get(verb, "running")
        answer = self.do(lambda work: getattr(work.experiments, verb)(experiment_id), by)
        expected = self.access(row, by, OWNERS if verb == "archive" else EDITORS)
        if row and not expected and row["status"] != target:
            runs = [it for it in self.rows["run"].values() if it["experiment"] == experiment_id]
            if target not in TABLE[row["status"]]:
                expected = "invalid_transition"
            elif verb != "start" and any(it["status"] == "running" for it in runs):
                expected = "running_runs"
        if expected:
            assert answer == expected
        elif row and row["status"] != target:
            self.step("experiment", experiment_id, target, by)
            self.told(f"experiment.{'started' if verb == 'start' else target}", "experiment", experiment_id)

    @rule(by=people, run_id=runs)
    def start_run(self, by: str, run_id: UUID) -> None:
        row = self.rows["run"].get(run_id)
        answer = self.do(lambda work: work.runs.start(run_id), by)
        expected = self.access(row, by, EDITORS)
        starts_experiment = False
        if row and not expected and row["status"] != "running":
            experiment = self.rows["experiment"][row["experiment"]]["status"]
            starts_experiment = row["status"] == experiment == "draft"
            if row["status"] != "draft":
                expected = "invalid_transition"
            elif experiment not in {"draft", "running"}:
                expected = "experiment_not_running"
        if expected:
            assert answer == expected
        elif row and row["status"] != "running":
            if starts_experiment:
                self.step("experiment", row["experiment"], "running", by)
                self.told("experiment.started", "experiment", row["experiment"])
            self.step("run", run_id, "running", by)
            self.told("run.started", "run", run_id)

    @rule(by=people, run_id=runs, verb=st.sampled_from(list(ENDS)))
    def end_run(self, by: str, run_id: UUID, verb: str) -> None:
        row, target = self.rows["run"].get(run_id), ENDS[verb]
        answer = self.do(lambda work: getattr(work.runs, verb)(run_id), by)
        expected = self.access(row, by, OWNERS if verb == "archive" else EDITORS)
        if row and not expected and row["status"] != target:
            if target not in TABLE[row["status"]]:
                expected = "invalid_transition"
            elif any(it["status"] == "running" for it in self.sessions_of(run_id).values()):
                expected = "active_capture_sessions"
        if expected:
            assert answer == expected
        elif row and row["status"] != target:
            self.step("run", run_id, target, by)
            self.told(f"run.{target}", "run", run_id)
            if verb == "archive":
                for session_id, session in sorted(self.sessions_of(run_id).items(), key=lambda it: it[1]["ordinal"]):
                    if session["status"] != "archived":
                        self.step("capture_session", session_id, "archived", by)
                        self.told("capture.archived", "capture_session", session_id)

    def start_refusal(self, run_id: UUID) -> str | None:
        run = self.rows["run"][run_id]
        if run["status"] != "running":
            return "run_not_running"
        if all(self.rows["sensor"][it]["status"] == "retired" for it in run["sensors"]):
            return "no_bound_sensors"
        if any(it["status"] == "running" for it in self.sessions_of(run_id).values()):
            return "session_already_running"
        return None

    def started(self, session_id: UUID, by: str) -> None:
        row = self.rows["capture_session"][session_id]
        bound = self.rows["run"][row["run"]]["sensors"]
        row["pins"] = {it for it in bound if self.rows["sensor"][it]["status"] != "retired"}
        self.step("capture_session", session_id, "running", by)
        self.told("capture.started", "capture_session", session_id)

    @rule(by=people, session_id=sessions, status=st.sampled_from(["running", "succeeded", "failed", "archived"]))
    def move_session(self, by: str, session_id: UUID, status: str) -> None:
        row = self.rows["capture_session"].get(session_id)
        verbs: dict[str, Callable[[Work], Awaitable[Any]]] = {
            "running": lambda work: work.captures.start(session_id),
            "archived": lambda work: work.captures.archive(session_id),
        }
        stop: Callable[[Work], Awaitable[Any]] = lambda work: work.captures.stop(session_id, CaptureStatus(status))  # noqa: E731
        answer = self.do(verbs.get(status, stop), by)
        expected = self.access(row, by, OWNERS if status == "archived" else EDITORS)
        if row and not expected and row["status"] != status:
            if status not in SESSION_TABLE[row["status"]]:
                expected = "invalid_transition"
            elif status == "running":
                expected = self.start_refusal(row["run"])
        if expected:
            assert answer == expected
        elif row and row["status"] != status:
            if status == "running":
                self.started(session_id, by)
            else:
                self.step("capture_session", session_id, status, by)
                self.told(f"capture.{SESSION_EVENTS[status]}", "capture_session", session_id)

    @rule(by=people, sensor_id=sensors, status=st.sampled_from(["active", "inactive", "retired"]))
    def move_sensor(self, by: str, sensor_id: UUID, status: str) -> None:
        row = self.rows["sensor"].get(sensor_id)
        verb = {"active": "activate", "inactive": "deactivate", "retired": "retire"}[status]
        answer = self.do(lambda work: getattr(work.sensors, verb)(sensor_id), by)
        expected = self.access(row, by, OWNERS if verb == "retire" else EDITORS)
        if row and not expected and row["status"] != status:
            if status not in SENSOR_TABLE[row["status"]]:
                expected = "invalid_transition"
            elif verb == "retire" and self.recording_with(sensor_id):
                expected = "sensor_in_use"
        if expected:
            assert answer == expected
        elif row and row["status"] != status:
            self.step("sensor", sensor_id, status, by)
            if verb == "retire":
                self.told("sensor.retired", "sensor", sensor_id)

    # Edits and removals.

    @rule(by=people, run_id=runs, notes=st.sampled_from(["a", "b"]), behind=st.sampled_from([None, 0, 0, 1]))
    def edit_run(self, by: str, run_id: UUID, notes: str, behind: int | None) -> None:
        row = self.rows["run"].get(run_id)
        version = None if row is None or behind is None else row["version"] - behind
        answer = self.do(lambda work: work.runs.edit(run_id, if_version=version, notes=notes), by)
        expected = self.access(row, by, EDITORS)
        if row and not expected:
            if behind:
                expected = "version_mismatch"
            elif row["status"] == "archived":
                expected = "archived"
        if expected:
            assert answer == expected
        elif row and row["notes"] != notes:
            row["notes"] = notes
            row["version"] += 1
            self.commands += 1

    @rule(by=people, run_id=runs, sensor_id=sensors)
    def bind(self, by: str, run_id: UUID, sensor_id: UUID) -> None:
        run, sensor = self.rows["run"].get(run_id), self.rows["sensor"].get(sensor_id)
        answer = self.do(lambda work: work.runs.bind(run_id, sensor_id), by)
        expected = self.access(run, by, EDITORS)
        if run and not expected:
            if sensor is None or sensor["project"] != run["project"]:
                expected = "not_found"
            elif run["status"] not in {"draft", "running"}:
                expected = "archived" if run["status"] == "archived" else "run_over"
            elif sensor["status"] == "retired":
                expected = "sensor_retired"
        if expected:
            assert answer == expected
        elif run and sensor_id not in run["sensors"]:
            run["sensors"].append(sensor_id)
            self.told("sensor.bound", "sensor", sensor_id)
            self.commands += 1

    @rule(by=people, run_id=runs, sensor_id=sensors)
    def unbind(self, by: str, run_id: UUID, sensor_id: UUID) -> None:
        run = self.rows["run"].get(run_id)
        answer = self.do(lambda work: work.runs.unbind(run_id, sensor_id), by)
        expected = self.access(run, by, EDITORS)
        if run and not expected:
            if sensor_id not in run["sensors"]:
                expected = "not_found"
            elif run["status"] not in {"draft", "running"}:
                expected = "archived" if run["status"] == "archived" else "run_over"
            elif self.recording_with(sensor_id, run_id):
                expected = "sensor_in_use"
        if expected:
            assert answer == expected
        elif run:
            run["sensors"].remove(sensor_id)
            self.told("sensor.unbound", "sensor", sensor_id)
            self.commands += 1

    @rule(by=people, experiment_id=experiments)
    def delete_experiment(self, by: str, experiment_id: UUID) -> None:
        row = self.rows["experiment"].get(experiment_id)
        answer = self.do(lambda work: work.experiments.delete(experiment_id), by)
        expected = self.access(row, by, OWNERS)
        if row and not expected:
            if row["status"] != "draft":
                expected = "not_draft"
            elif any(run["experiment"] == experiment_id for run in self.rows["run"].values()):
                expected = "has_runs"
        assert answer == expected
        if not expected:
            del self.rows["experiment"][experiment_id]
            self.commands += 1

    @rule(by=people, run_id=runs)
    def delete_run(self, by: str, run_id: UUID) -> None:
        row = self.rows["run"].get(run_id)
        answer = self.do(lambda work: work.runs.delete(run_id), by)
        expected = self.access(row, by, OWNERS)
        if row and not expected:
            if row["status"] != "draft":
                expected = "not_draft"
            elif self.sessions_of(run_id, deleted=True):
                expected = "has_capture_sessions"
        assert answer == expected
        if not expected:
            del self.rows["run"][run_id]
            self.commands += 1

    @rule(by=people, session_id=sessions)
    def delete_session(self, by: str, session_id: UUID) -> None:
        row = self.rows["capture_session"].get(session_id)
        answer = self.do(lambda work: work.captures.delete(session_id), by)
        expected = self.access(row, by, OWNERS)
        if row and not expected and row["status"] not in {"draft", "failed"}:
            expected = "not_deletable"
        assert answer == expected
        if row and not expected:
            if row["status"] == "draft":
                del self.rows["capture_session"][session_id]
            else:
                row["deleted"] = True
                row["version"] += 1
            self.told("capture.deleted", "capture_session", session_id)
            self.commands += 1

    @rule(by=people, session_id=sessions)
    def restore_session(self, by: str, session_id: UUID) -> None:
        row = self.rows["capture_session"].get(session_id)
        answer = self.do(lambda work: work.captures.restore(session_id), by)
        expected = self.access(row and {"project": row["project"]}, by, OWNERS)
        if row and not expected and self.rows["run"][row["run"]]["status"] == "archived":
            expected = "archived"
        if expected:
            assert answer == expected
        elif row and row["deleted"]:
            row["deleted"] = False
            row["version"] += 1
            self.commands += 1

    @rule(by=people, sensor_id=sensors)
    def delete_sensor(self, by: str, sensor_id: UUID) -> None:
        row = self.rows["sensor"].get(sensor_id)
        answer = self.do(lambda work: work.sensors.delete(sensor_id), by)
        expected = self.access(row, by, OWNERS)
        if row and not expected:
            sessions = self.rows["capture_session"].values()
            if self.recording_with(sensor_id):
                expected = "sensor_in_use"
            elif any(sensor_id in session["pins"] for session in sessions):
                expected = "sensor_has_recorded"
        assert answer == expected
        if not expected:
            del self.rows["sensor"][sensor_id]
            for run in self.rows["run"].values():
                run["sensors"] = [it for it in run["sensors"] if it != sensor_id]
            self.commands += 1

    # Readings.

    @rule(sensor_id=sensors)
    def heartbeat(self, sensor_id: UUID) -> None:
        row = self.rows["sensor"].get(sensor_id)
        answer = self.do(lambda work: work.sensors.heartbeat(sensor_id), self.tokens[sensor_id])
        if row is None:
            assert answer == "unauthenticated"
        elif row["status"] in {"retired", "inactive"}:
            assert answer == f"sensor_{row['status']}"
        else:
            self.seen(sensor_id)

    def seen(self, sensor_id: UUID) -> None:
        if self.rows["sensor"][sensor_id]["status"] == "registered":
            self.step("sensor", sensor_id, "active", f"sensor:{sensor_id}")

    @rule(
        readings=st.lists(st.tuples(st.integers(0, 6), st.integers(-9, 9)), min_size=1, max_size=4),
        batch_id=st.sampled_from([None, None, "b-1", "b-2"]),
    )
    def write_down(self, readings: list[tuple[int, int]], batch_id: str | None) -> None:
        self.known["batch"].append((readings, batch_id))

    @rule(sensor_id=sensors, session_id=st.none() | sessions, batch=batches)
    def ingest(self, sensor_id: UUID, session_id: UUID | None, batch: tuple[list[tuple[int, int]], Any]) -> None:
        readings, batch_id = batch
        column = a_column([stamp for stamp, _ in readings], [float(value) for _, value in readings])
        sent = a_batch(column, session=session_id, batch_id=batch_id)
        answer = self.do(lambda work: work.telemetry.ingest(sent), self.tokens[sensor_id])
        row = self.rows["sensor"].get(sensor_id)
        if row is None:
            assert answer == "unauthenticated"
            return
        known = [
            (session, digest, late)
            for sender, session, key, digest, late in self.receipts
            if sender == sensor_id and key == sent.key and session_id in (None, session)
        ]
        if known:
            session, digest, late = known[-1]
            if digest != sent.digest:
                assert answer == "batch_id_reused"
            else:
                assert (answer.capture_session_id, answer.accepted) == (session, len(readings))
                assert (answer.late, answer.duplicate) == (late, True)
            return
        expected, destination = self.destination(sensor_id, session_id)
        if row["status"] in {"retired", "inactive"}:
            expected = f"sensor_{row['status']}"
        if expected or destination is None:
            assert answer == expected
            return
        is_late = self.rows["capture_session"][destination]["status"] != "running"
        assert (answer.capture_session_id, answer.accepted) == (destination, len(readings))
        assert (answer.late, answer.duplicate) == (len(readings) if is_late else 0, False)
        self.receipts.append((sensor_id, destination, sent.key, sent.digest, answer.late))
        series = self.readings.setdefault((destination, sensor_id), {})
        series.update({stamp: (float(value), is_late) for stamp, value in readings})
        self.seen(sensor_id)
        if is_late:
            self.told("capture.late_data", "capture_session", destination)

    def destination(self, sensor_id: UUID, session_id: UUID | None) -> tuple[str | None, UUID | None]:
        if session_id is None:
            found = self.recording_with(sensor_id)
            if len(found) == 1:
                return None, found[0]
            return ("ambiguous_session" if found else "no_running_session"), None
        session = self.rows["capture_session"].get(session_id)
        sensor = self.rows["sensor"][sensor_id]
        if session is None or session["deleted"]:
            return "not_found", None
        if sensor_id not in session["pins"]:
            if session["project"] != sensor["project"]:
                return "not_found", None
            return ("session_not_started" if session["status"] == "draft" else "sensor_not_in_session"), None
        return ("archived", None) if session["status"] == "archived" else (None, session_id)

    # What is always true.

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        self.runner.run(self.compare())

    async def compare(self) -> None:
        async with self.units.begin(System(), read_only=True) as uow:
            repositories: dict[str, Any] = {
                "experiment": uow.experiments,
                "run": uow.runs,
                "capture_session": uow.captures,
                "sensor": uow.sensors,
            }
            for noun, rows in self.rows.items():
                for entity_id, row in rows.items():
                    shown = {"deleted": True} if row.get("deleted") else {}
                    found = await repositories[noun].get(entity_id, **shown)
                    assert (found.status, found.version) == (row["status"], row["version"]), noun
            for entity_id, steps in self.history.items():
                for noun in self.rows:
                    found = [(it.source, it.target, it.actor) for it in await uow.history.of(noun, entity_id)]
                    assert found in ([], steps)
                if any(entity_id in rows for rows in self.rows.values()):
                    (noun,) = [noun for noun, rows in self.rows.items() if entity_id in rows]
                    found = [(it.source, it.target, it.actor) for it in await uow.history.of(noun, entity_id)]
                    assert found == steps
            for run_id, run in self.rows["run"].items():
                bound = [binding.sensor_id for binding in await uow.runs.sensors_of(run_id)]
                assert bound == run["sensors"]
                running = [it for it in self.sessions_of(run_id).values() if it["status"] == "running"]
                assert len(running) <= 1
                assert run["status"] == "running" or not running
            for (session_id, sensor_id), readings in self.readings.items():
                (series,) = [it for it in await uow.telemetry.series(session_id) if it.sensor_id == sensor_id]
                late = sum(is_late for _, is_late in readings.values())
                assert (series.count, series.late) == (len(readings), late)
                query = ReadingQuery(
                    capture_session_id=session_id, sensor_id=sensor_id, signal="value", layer=Layer.RAW, limit=100
                )
                found = await uow.telemetry.read(query)
                values = dict(zip(found.timestamps, found.values, strict=True))
                assert values == {stamp: value for stamp, (value, _) in sorted(readings.items())}
            audit = await uow.audit.page(AuditFilter(project_ids=list(self.roles)), limit=100_000, after=None)
            assert len(audit.items) == self.commands
            for project_id in self.roles:
                assert (await uow.audit.verify(project_id)).is_intact
        assert [(it.event.type, it.event.subject) for it in self.units.events] == self.events
        assert len({it.id for it in self.units.events}) == len(self.events)

    @rule(by=people)
    def ask_for_what_never_was(self, by: str) -> None:
        assert self.do(lambda work: work.runs.get(fresh()), by) == "not_found"


TestServices = ServicesMachine.TestCase
TestServices.settings = settings(max_examples=2 * settings().max_examples)
