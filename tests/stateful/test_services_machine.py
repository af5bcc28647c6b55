"""The library in memory against a model of plain dictionaries: any commands, by anybody, in any order, and at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import count, pairwise
from typing import Any
from uuid import UUID

import pytest
from attrs import frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from entities import SettableClock, a_batch, a_column, fresh
from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_domain import Services, System, User, Work
from experiment_domain.audit import AuditFilter, AuditRecord
from experiment_domain.captures import CaptureStatus
from experiment_domain.kernel.access import Principal, Role, SensorToken
from experiment_domain.kernel.errors import Refusal
from experiment_domain.runs import Run, RunStatus, Tagging
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
ARTIFACT_TABLE = {
    "pending": {"approved", "rejected"},
    "approved": {"revoked"},
    "rejected": {"pending"},
    "revoked": set[str](),
}
ARTIFACT_VERBS = {"approve": "approved", "reject": "rejected", "revoke": "revoked", "resubmit": "pending"}
SESSION_EVENTS = {"running": "started", "succeeded": "completed", "failed": "failed", "archived": "archived"}
Row = dict[str, Any]

# Most of what is done is done by who may do it: else little would ever happen.
people = st.sampled_from(["ann"] * 12 + ["ben"] * 2 + ["cid", "dee"])


def _known(noun: str) -> st.SearchStrategy[Any]:
    """The ids of all things of a kind that ever were, the gone ones among them."""
    return st.runner().flatmap(lambda machine: st.sampled_from(machine.known[noun]))


experiments, runs, sessions, sensors = map(_known, ("experiment", "run", "capture_session", "sensor"))
artifacts, batches = map(_known, ("artifact", "batch"))
several_runs = st.runner().flatmap(
    lambda machine: st.lists(st.sampled_from(machine.known["run"]), min_size=1, max_size=4, unique=True)
)
TAGS = st.lists(st.sampled_from(["hot", "cold", "long"]), unique=True)


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
            noun: {} for noun in ("experiment", "run", "capture_session", "sensor", "artifact")
        }
        self.ordinals: dict[UUID, set[int]] = {}
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
        self.register_artifact("ann", recording)
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
            "run",
            answer.id,
            project=row["project"],
            experiment=experiment_id,
            status="draft",
            sensors=[],
            notes=None,
            tags=(),
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
        self.ordinals.setdefault(run_id, set()).add(ordinal)
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
                self.archive_sessions(run_id, by)

    def archive_sessions(self, run_id: UUID, by: str) -> None:
        for session_id, session in sorted(self.sessions_of(run_id).items(), key=lambda it: it[1]["ordinal"]):
            if session["status"] != "archived":
                self.step("capture_session", session_id, "archived", by)
                self.told("capture.archived", "capture_session", session_id)

    @rule(by=people, run_ids=several_runs, status=st.sampled_from(RunStatus), atomic=st.booleans())
    def set_statuses(self, by: str, run_ids: list[UUID], status: RunStatus, atomic: bool) -> None:
        answer = self.do(lambda work: work.runs.set_statuses(run_ids, status, atomic=atomic), by)
        refused: dict[UUID, str] = {}
        begun: list[UUID] = []
        for run_id in run_ids:
            row = self.rows["run"].get(run_id)
            expected = self.access(row, by, OWNERS if status == "archived" else EDITORS)
            if row and not expected and row["status"] != status:
                experiment_id = row["experiment"]
                experiment = self.rows["experiment"][experiment_id]["status"]
                if status not in TABLE[row["status"]]:
                    expected = "invalid_transition"
                elif status == "running":
                    if experiment == "draft":
                        begun += [experiment_id] if experiment_id not in begun else []
                    elif experiment != "running":
                        expected = "experiment_not_running"
                elif any(it["status"] == "running" for it in self.sessions_of(run_id).values()):
                    expected = "active_capture_sessions"
            if expected:
                refused[run_id] = expected
        if atomic and refused:
            assert answer == "not_all_possible"
            return
        assert [outcome.run_id for outcome in answer] == run_ids
        assert {it.run_id: it.refusal.code for it in answer if it.refusal} == refused
        assert {str(it.run.status) for it in answer if it.run} <= {str(status)}
        moved = [it for it in run_ids if it not in refused and self.rows["run"][it]["status"] != status]
        for experiment_id in begun:
            self.step("experiment", experiment_id, "running", by)
            self.told("experiment.started", "experiment", experiment_id)
        for run_id in moved:
            self.step("run", run_id, str(status), by)
            self.told(f"run.{'started' if status == 'running' else status}", "run", run_id)
        if status == "archived":
            for run_id in sorted(moved):
                self.archive_sessions(run_id, by)

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

    @rule(by=people, run_ids=several_runs, tags=TAGS, others=TAGS, sets=st.booleans())
    def tag(self, by: str, run_ids: list[UUID], tags: list[str], others: list[str], sets: bool) -> None:
        others = [tag for tag in others if tag not in tags]
        tagging = Tagging.create(set_tags=tags) if sets else Tagging.create(add_tags=tags, remove_tags=others)
        answer = self.do(lambda work: work.runs.tag(run_ids, tagging), by)
        assert [outcome.run_id for outcome in answer] == run_ids
        for outcome in answer:
            row = self.rows["run"].get(outcome.run_id)
            expected = self.access(row, by, EDITORS)
            if row and not expected and row["status"] == "archived":
                expected = "archived"
            if expected:
                assert outcome.refusal.code == expected
            elif row:
                kept = [] if sets else [tag for tag in row["tags"] if tag not in others]
                wanted = tuple(dict.fromkeys([*kept, *tags]))
                if wanted != row["tags"]:
                    row["tags"] = wanted
                    row["version"] += 1
                    self.commands += 1
                    self.told("run.tagged", "run", outcome.run_id)
                assert (outcome.run.tags, outcome.run.version) == (wanted, row["version"])

    # Artifacts.

    @rule(by=people, run_id=runs)
    def register_artifact(self, by: str, run_id: UUID) -> None:
        row = self.rows["run"].get(run_id)
        answer = self.do(lambda work: work.artifacts.register(run_id, name="Model", uri="s3://models/m.onnx"), by)
        expected = self.access(row, by, EDITORS)
        if row and not expected and row["status"] == "archived":
            expected = "archived"
        if expected:
            assert answer == expected
            return
        assert row
        self.added("artifact", answer.id, project=row["project"], run=run_id, status="pending")
        self.told("artifact.registered", "artifact", answer.id)

    @rule(by=people, artifact_id=artifacts, verb=st.sampled_from(list(ARTIFACT_VERBS)))
    def move_artifact(self, by: str, artifact_id: UUID, verb: str) -> None:
        row, target = self.rows["artifact"].get(artifact_id), ARTIFACT_VERBS[verb]
        answer = self.do(lambda work: getattr(work.artifacts, verb)(artifact_id), by)
        expected = self.access(row, by, EDITORS if verb == "resubmit" else OWNERS)
        if row and not expected and row["status"] != target and target not in ARTIFACT_TABLE[row["status"]]:
            expected = "invalid_transition"
        if expected:
            assert answer == expected
        elif row and row["status"] != target:
            self.step("artifact", artifact_id, target, by)
            self.told(f"artifact.{'resubmitted' if verb == 'resubmit' else target}", "artifact", artifact_id)

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
            elif any(artifact["run"] == run_id for artifact in self.rows["artifact"].values()):
                expected = "has_artifacts"
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
            self.told("capture.restored", "capture_session", session_id)
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
            elif any(run["status"] not in {"draft", "running"} for run in self.bound_to(sensor_id)):
                expected = "sensor_bound"
        assert answer == expected
        if not expected:
            del self.rows["sensor"][sensor_id]
            for run in self.bound_to(sensor_id):
                run["sensors"].remove(sensor_id)
                self.told("sensor.unbound", "sensor", sensor_id)
                self.commands += 1
            self.commands += 1

    def bound_to(self, sensor_id: UUID) -> list[dict[str, Any]]:
        return [run for run in self.rows["run"].values() if sensor_id in run["sensors"]]

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
                "artifact": uow.artifacts,
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
                assert (await repositories["run"].get(run_id)).tags == run["tags"]
                # The number of a removed draft that was the last one is given again; there never was a gap.
                kept = [it["ordinal"] for it in self.sessions_of(run_id, deleted=True).values()]
                ever = self.ordinals.get(run_id, set())
                assert len(set(kept)) == len(kept)
                assert set(kept) <= ever == set(range(1, len(ever) + 1))
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
            self.compare_versions(list(reversed(audit.items)))
            for project_id in self.roles:
                assert (await uow.audit.verify(project_id)).is_intact
        assert [(it.event.type, it.event.subject) for it in self.units.events] == self.events
        assert len({it.id for it in self.units.events}) == len(self.events)

    def compare_versions(self, records: list[AuditRecord]) -> None:
        """Each effective change is one version above the one before, in the audit log as in the history."""
        last: dict[str, int] = {}
        for record in records:
            if record.after is not None and "version" in record.after:
                before = None if record.before is None else record.before["version"]
                assert last.get(record.target_id) == before
                last[record.target_id] = record.after["version"]
                assert last[record.target_id] == (before or 0) + 1
        for rows in self.rows.values():
            for entity_id, row in rows.items():
                assert last[str(entity_id)] == row["version"]
        for noun, steps in ((noun, self.history[it]) for noun, rows in self.rows.items() for it in rows):
            first = {"artifact": "pending", "sensor": "registered"}.get(noun, "draft")
            assert [source for source, _, _ in steps] == [first, *(target for _, target, _ in steps)][: len(steps)]

    @rule(by=people)
    def ask_for_what_never_was(self, by: str) -> None:
        assert self.do(lambda work: work.runs.get(fresh()), by) == "not_found"


PAUSES = st.integers(0, 4)


@frozen
class Command:
    """One client's unit of work on one of the runs.

    `told`: it says which version it is meant for. `pauses` are turns of the event loop before the unit of work, in it,
    and before its end; after `patience` turns the client leaves, whatever has come of it.
    """

    place: int
    kind: str
    told: bool
    pauses: tuple[int, int, int]
    patience: int | None

    @property
    def wins_or_loses(self) -> bool:
        """Whether it is an edit of the version that was read, by somebody who waits for the answer."""
        return self.kind == "edit" and self.told and self.patience is None

    def concerns(self, place: int) -> bool:
        """Whether it gives a run another version, if it has its way."""
        return self.kind == "tag all" or (self.kind != "session" and self.place == place)


COMMANDS = st.builds(
    Command,
    place=st.integers(0, 1),
    kind=st.sampled_from(["edit", "edit", "tag", "tag all", "session", "start", "finish"]),
    told=st.booleans(),
    pauses=st.tuples(PAUSES, PAUSES, PAUSES),
    patience=st.sampled_from([None, None, None, 0, 1, 2, 3, 5, 8]),
)
REFUSALS = {"session": {"run_over"}, "start": {"invalid_transition"}, "finish": {"invalid_transition"}}


class InterleavedMachine(RuleBasedStateMachine):
    """Several units of work at once, many of them told which version they are meant for: each version is taken once."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = SettableClock()
        self.units = MemoryUnitsOfWork()
        self.services = Services(units_of_work=self.units, clock=self.clock)
        self.names = map("{}".format, count(1))
        self.sessions = [0, 0]

    def teardown(self) -> None:
        self.runner.close()

    @initialize()
    def open(self) -> None:
        async def make() -> tuple[UUID, UUID, list[UUID]]:
            async with self.services.begin(PEOPLE["ann"]) as work:
                project = await work.projects.create(name="P")
                experiment = await work.experiments.create(project_id=project.id, name="E")
                runs = [(await work.runs.create(experiment.id, name="R")).id for _ in range(2)]
                return project.id, experiment.id, runs

        self.project_id, self.experiment_id, self.runs = self.runner.run(make())
        self.commands = 4

    @rule(commands=st.lists(COMMANDS, min_size=2, max_size=8))
    def at_once(self, commands: list[Command]) -> None:
        self.runner.run(self.all_at_once(commands))

    @rule(told=st.lists(st.tuples(PAUSES, PAUSES, PAUSES), min_size=2, max_size=6), place=st.integers(0, 1))
    def edit_the_same_version(self, told: list[tuple[int, int, int]], place: int) -> None:
        edits = [Command(place, "edit", told=True, pauses=pauses, patience=None) for pauses in told]
        self.runner.run(self.all_at_once(edits))

    async def all_at_once(self, commands: list[Command]) -> None:
        before = [await self.get(run_id) for run_id in self.runs]
        tasks = [asyncio.create_task(self.one(command, before[command.place])) for command in commands]
        leaving = [self.leave(task, command) for task, command in zip(tasks, commands, strict=True)]
        answers = await asyncio.gather(*tasks, *leaving, return_exceptions=True)
        taken: dict[UUID, list[int]] = {run_id: [] for run_id in self.runs}
        ordinals: list[list[int]] = [[], []]
        for command, answer in zip(commands, answers, strict=False):
            run = before[command.place]
            if isinstance(answer, asyncio.CancelledError):
                # Nothing came of it: below, no version and no ordinal is left over for it.
                assert command.patience is not None
            elif isinstance(answer, BaseException):
                raise answer
            elif isinstance(answer, str):
                assert answer in REFUSALS.get(command.kind, set()) | ({"version_mismatch"} if command.told else set())
            elif isinstance(answer, int):
                ordinals[command.place].append(answer)
            else:
                for changed in answer:
                    taken[changed.id].append(changed.version)
                if command.told and not command.kind.startswith("tag"):
                    assert [changed.version for changed in answer] in ([], [run.version + 1])
        for place, run in enumerate(before):
            # Every version is somebody's, and nobody else's: of those that were told of one, one has won.
            now = await self.get(run.id)
            assert sorted(taken[run.id]) == list(range(run.version + 1, now.version + 1))
            assert sorted(ordinals[place]) == [self.sessions[place] + 1 + n for n in range(len(ordinals[place]))]
            self.sessions[place] += len(ordinals[place])
            self.commands += len(taken[run.id]) + len(ordinals[place])
            rivals = [answers[at] for at, command in enumerate(commands) if command.concerns(place)]
            if rivals and all(command.wins_or_loses for command in commands if command.concerns(place)):
                assert rivals.count("version_mismatch") == len(rivals) - 1

    async def one(self, command: Command, run: Run) -> Any:
        """The runs that changed, the ordinal of a new session, or the code of the refusal."""
        if_version, name = (run.version if command.told else None), next(self.names)
        before, within, after = command.pauses
        await self.pause(before)
        try:
            async with self.services.begin(PEOPLE["ann"]) as work:
                await self.pause(within)
                if command.kind == "edit":
                    answer: Any = [await work.runs.edit(run.id, if_version=if_version, notes=name)]
                elif command.kind == "session":
                    answer = (await work.captures.create(run.id)).ordinal
                elif command.kind in ("start", "finish"):
                    version = (await work.runs.get(run.id)).version
                    moved = await getattr(work.runs, command.kind)(run.id, if_version=if_version)
                    answer = [moved] if moved.version != version else []
                else:
                    run_ids = self.runs[::-1] if command.kind == "tag all" else [run.id]
                    answer = [outcome.run for outcome in await work.runs.tag(run_ids, Tagging.create(set_tags=[name]))]
                await self.pause(after)
        except Refusal as refusal:
            return refusal.code
        return answer

    async def leave(self, task: "asyncio.Task[Any]", command: Command) -> None:
        if command.patience is not None:
            await self.pause(command.patience)
            task.cancel()

    async def pause(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
            self.clock.pass_by(1)

    async def get(self, run_id: UUID) -> Run:
        async with self.services.read(PEOPLE["ann"]) as work:
            return await work.runs.get(run_id)

    @invariant()
    def everything_is_in_a_line(self) -> None:
        if hasattr(self, "runs"):
            self.runner.run(self.compare())

    async def compare(self) -> None:
        async with self.units.begin(System(), read_only=True) as uow:
            which = AuditFilter(project_ids=[self.project_id])
            records = list(reversed((await uow.audit.page(which, limit=100_000, after=None)).items))
            assert (await uow.audit.verify(self.project_id)).is_intact
            starts = await uow.history.of("experiment", self.experiment_id)
            assert len(records) == self.commands + len(starts)
            assert [move.source for move in starts] in ([], ["draft"])
            for place, run_id in enumerate(self.runs):
                run = await uow.runs.get(run_id)
                assert run is not None
                of_run = [record for record in records if record.target_id == str(run_id)]
                versions = [record.after and record.after["version"] for record in of_run]
                assert versions == list(range(1, run.version + 1))
                moves = await uow.history.of("run", run_id)
                statuses = ["draft", *(move.target for move in moves)]
                assert [move.source for move in moves] == statuses[:-1]
                assert statuses[-1] == run.status
                for steps in (of_run, moves):
                    assert all(one.at <= other.at for one, other in pairwise(steps))
                page = await uow.captures.page(run_id, limit=1_000, after=None)
                assert [session.ordinal for session in page.items] == list(range(self.sessions[place], 0, -1))


TestServices = ServicesMachine.TestCase
TestServices.settings = settings(max_examples=2 * settings().max_examples)
TestInterleaved = InterleavedMachine.TestCase
TestInterleaved.settings = settings(max_examples=2 * settings().max_examples)
