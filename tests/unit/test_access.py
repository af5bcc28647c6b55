"""Who may do what, by the table of the documentation; and use cases that forget to ask."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entities import NOW, CountedIds, SettableClock, a_project, an_experiment, fresh
from experiment_domain.audit import AuditRecord
from experiment_domain.kernel.access import (
    GRANTS,
    MEMBER_ROLES,
    Caller,
    Grants,
    Integration,
    Permission,
    Principal,
    Role,
    SensorToken,
    System,
    User,
    higher,
)
from experiment_domain.kernel.errors import Forbidden, NotFound, Refusal, VersionMismatch
from experiment_domain.projects import Project
from experiment_domain.unit_of_work import UnitOfWork
from experiment_domain.usecases.artifacts import ArtifactUseCases
from experiment_domain.usecases.captures import CaptureUseCases
from experiment_domain.usecases.conversions import ConversionUseCases
from experiment_domain.usecases.experiments import ExperimentUseCases
from experiment_domain.usecases.permits import Permit, UseCases, requires
from experiment_domain.usecases.projects import ProjectUseCases
from experiment_domain.usecases.recording import Recorder
from experiment_domain.usecases.runs import RunUseCases
from experiment_domain.usecases.sensors import SensorUseCases
from experiment_domain.usecases.telemetry import TelemetryUseCases

HOME, ELSEWHERE = fresh(), fresh()

# viewer, editor, owner, sensor token, integration
DOCUMENTED: Mapping[Permission, str] = {
    Permission.READ: "yes yes yes no no",
    Permission.EDIT: "no yes yes no no",
    Permission.ADMINISTER: "no no yes no no",
    Permission.OWN: "no no yes no no",
    Permission.INGEST: "no no no yes no",
    Permission.REPORT: "no no no no yes",
    Permission.SIGN_IN: "yes yes yes no no",
    Permission.WORK: "no no no no no",
}
ROLES = (*MEMBER_ROLES, Role.SENSOR, Role.INTEGRATION)


def test_the_table_knows_every_permission():
    assert set(DOCUMENTED) == set(GRANTS) == set(Permission)


@pytest.mark.parametrize(
    ("permission", "role", "granted"),
    [
        pytest.param(permission, role, word == "yes", id=f"{permission.name}-{role}")
        for permission, words in DOCUMENTED.items()
        for role, word in zip(ROLES, words.split(), strict=True)
    ],
)
def test_permissions_are_the_documented_ones(permission: Permission, role: Role, granted: bool):
    grants = Grants(actor="ann", roles={HOME: role})

    assert grants.allows(permission, HOME) is granted
    assert not grants.allows(permission, ELSEWHERE)
    if granted:
        grants.require(permission, HOME, "run")
    else:
        # A machine knows of no things but its own doings; a person knows of all things of the project.
        with pytest.raises(NotFound if role in (Role.SENSOR, Role.INTEGRATION) else Forbidden):
            grants.require(permission, HOME, "run")
    with pytest.raises(NotFound):
        grants.require(permission, ELSEWHERE, "run")


@pytest.mark.parametrize("permission", Permission)
def test_the_service_itself_may_do_everything_everywhere(permission: Permission):
    grants = Grants(actor="system", everywhere=Role.SYSTEM)
    grants.require(permission, HOME, "run")
    assert grants.role_in(HOME) is Role.SYSTEM


@pytest.mark.parametrize("permission", Permission)
def test_another_service_may_do_one_thing_everywhere(permission: Permission):
    grants = Grants(actor="integration:x", everywhere=Role.INTEGRATION)
    assert grants.role_in(HOME) is Role.INTEGRATION
    assert grants.allows(permission, HOME) is (permission is Permission.REPORT)
    if permission is Permission.REPORT:
        grants.require(permission, HOME, "artifact")
    else:
        with pytest.raises(NotFound):
            grants.require(permission, HOME, "artifact")


RANKS = {None: 0, Role.VIEWER: 1, Role.EDITOR: 2, Role.OWNER: 3}


@given(st.sampled_from(list(RANKS)), st.sampled_from(list(RANKS)))
def test_a_users_role_is_the_higher_of_claim_and_membership(claim: Role | None, membership: Role | None):
    assert RANKS[higher(claim, membership)] == max(RANKS[claim], RANKS[membership])
    user = User(id="ann", projects={} if claim is None else {HOME: claim})
    grants = Grants.of_user(user, {} if membership is None else {HOME: membership})
    assert RANKS[grants.role_in(HOME)] == max(RANKS[claim], RANKS[membership])


@pytest.mark.parametrize("physical_only", [False, True])
@pytest.mark.parametrize("readers", [[], [Role.OWNER], [Role.VIEWER, Role.EDITOR], list(MEMBER_ROLES)], ids=len)
def test_the_project_says_who_reads_raw_values(readers: list[Role], physical_only: bool):
    project = a_project(raw_readers=frozenset(readers), physical_only=physical_only)
    for role in (None, *Role):
        assert project.may_read_raw(role) is (role in readers and not physical_only)


class _UnitOfWork:
    """As much of a unit of work as a permit asks for."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants

    async def grants(self, at: datetime) -> Grants:
        return self._grants


def _recorder(grants: Grants, principal: Principal | None = None) -> Recorder:
    uow = cast("UnitOfWork", _UnitOfWork(grants))
    return Recorder(uow, Caller(principal=principal or User(id="ann")), SettableClock(), CountedIds())


def _run(use_case: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        use_case.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited for something")


class Notes(UseCases):
    """Use cases that ask in every way there is, and one that does not."""

    @requires(Permission.EDIT)
    async def forget_to_ask(self, permit: Permit) -> str:
        """Take what was not granted."""
        return "done"

    @requires(Permission.EDIT)
    async def ask(self, permit: Permit, project_id: UUID) -> str:
        """Ask for a project."""
        await permit.require(project_id, "note")
        return "done"

    @requires(Permission.EDIT)
    async def hold(self, permit: Permit, entity: Project | None, version: int | None = None) -> Project:
        """Ask for an entity."""
        return await permit.holds(entity, "note", version)

    @requires(Permission.EDIT)
    async def list(self, permit: Permit) -> frozenset[UUID]:
        """Ask for all projects."""
        return await permit.projects()

    @requires(Permission.INGEST)
    async def deliver(self, permit: Permit, sensor_id: UUID | None = None) -> UUID:
        """Ask for a sensor."""
        return await permit.sensor(sensor_id)


def test_a_use_case_that_declares_no_permission_cannot_be_defined():
    with pytest.raises(TypeError, match=r"Careless\.peek declares no permission"):

        class Careless(UseCases):  # pyright: ignore[reportUnusedClass]
            async def peek(self) -> None:
                """Look at what is not there to be seen."""


def test_what_is_private_needs_no_permission_of_its_own():
    class Careful(UseCases):
        async def _load(self) -> None: ...

        def describe(self) -> str:
            return "not a use case: it cannot reach the store"

    assert Careful(_recorder(Grants(actor="ann"))).describe()


def test_a_use_case_that_never_asks_cannot_end_well():
    notes = Notes(_recorder(Grants(actor="ann", everywhere=Role.SYSTEM)))
    with pytest.raises(RuntimeError, match="never asked whether it may edit"):
        _run(notes.forget_to_ask())


def test_asking_for_a_project():
    notes = Notes(_recorder(Grants(actor="ann", roles={HOME: Role.EDITOR, ELSEWHERE: Role.VIEWER})))
    assert _run(notes.ask(HOME)) == "done"
    with pytest.raises(Forbidden):
        _run(notes.ask(ELSEWHERE))
    with pytest.raises(NotFound):
        _run(notes.ask(fresh()))


def test_asking_for_an_entity():
    project = a_project(version=3)
    notes = Notes(_recorder(Grants(actor="ann", roles={project.id: Role.EDITOR})))
    assert _run(notes.hold(project)) is project
    assert _run(notes.hold(project, 3)) is project
    with pytest.raises(VersionMismatch) as stale:
        _run(notes.hold(project, 2))
    assert stale.value.facts["current"] == 3
    refusals: list[Refusal] = []
    for hidden in (None, a_project()):
        with pytest.raises(NotFound) as refusal:
            _run(notes.hold(hidden, 1))
        refusals.append(refusal.value)
    # What is not there and what may not be known of are not told apart, not even by the version.
    assert (refusals[0].code, refusals[0].detail) == (refusals[1].code, refusals[1].detail)


def test_asking_for_all_projects():
    grants = Grants(actor="ann", roles={HOME: Role.EDITOR, ELSEWHERE: Role.VIEWER})
    assert _run(Notes(_recorder(grants)).list()) == {HOME}
    for machine in (SensorToken(token_hash=b"x"), Integration(name="x")):
        with pytest.raises(Forbidden):
            _run(Notes(_recorder(grants, machine)).list())


def test_asking_for_a_sensor():
    sensor_id = fresh()
    token = SensorToken(token_hash=b"x")
    notes = Notes(_recorder(Grants(actor="sensor", roles={HOME: Role.SENSOR}, sensor_id=sensor_id), token))
    assert _run(notes.deliver()) == _run(notes.deliver(sensor_id)) == sensor_id
    with pytest.raises(NotFound):
        _run(notes.deliver(fresh()))
    with pytest.raises(Forbidden):
        _run(Notes(_recorder(Grants(actor="ann", roles={HOME: Role.OWNER}))).deliver(sensor_id))


ALL = (
    ProjectUseCases,
    ExperimentUseCases,
    RunUseCases,
    CaptureUseCases,
    ArtifactUseCases,
    SensorUseCases,
    ConversionUseCases,
    TelemetryUseCases,
)


def test_every_use_case_asks_for_what_the_documentation_says():
    asked = {
        f"{use_cases.__name__.removesuffix('UseCases').lower()}.{name}": member.permission
        for use_cases in ALL
        for name, member in vars(use_cases).items()
        if hasattr(member, "permission")
    }
    own = {name for name in asked if name.rpartition(".")[2] in {"archive", "delete", "restore"}}
    own |= {"project.edit", "project.put_member", "project.remove_member", "sensor.retire"}
    own |= {"sensor.share", "sensor.unshare"}
    assert {name for name, permission in asked.items() if permission is Permission.OWN} == own
    assert {name for name, permission in asked.items() if permission is Permission.ADMINISTER} == {
        "conversion.publish",
        "conversion.retire",
        "sensor.rotate_token",
        "artifact.approve",
        "artifact.reject",
        "artifact.revoke",
    }
    assert {name for name, permission in asked.items() if permission is Permission.INGEST} == {
        "telemetry.ingest",
        "telemetry.ingest_all",
        "telemetry.ingest_waiting",
        "telemetry.check_sender",
        "sensor.heartbeat",
    }
    assert {name for name, permission in asked.items() if permission is Permission.REPORT} == {"artifact.report"}
    assert {name for name, permission in asked.items() if permission is Permission.SIGN_IN} == {"project.create"}


class _Recording:
    """As much of a unit of work as a recorder writes to."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self.records: list[AuditRecord] = []
        self.audit = self

    async def grants(self, at: datetime) -> Grants:
        return self._grants

    def record(self, record: AuditRecord) -> None:
        self.records.append(record)


@pytest.mark.parametrize(
    ("principal", "grants", "actor", "role"),
    [
        (User(id="ann"), Grants(actor="ann", roles={HOME: Role.EDITOR}), "ann", "editor"),
        (System(), Grants(actor="system", everywhere=Role.SYSTEM), "system", "system"),
        (
            Integration(name="x"),
            Grants(actor="integration:x", everywhere=Role.INTEGRATION),
            "integration:x",
            "integration",
        ),
        (SensorToken(token_hash=b"x"), Grants(actor="sensor:7", roles={HOME: Role.SENSOR}), "sensor:7", "sensor"),
    ],
    ids=["user", "system", "integration", "sensor"],
)
def test_the_audit_log_tells_who_and_in_which_role(principal: Principal, grants: Grants, actor: str, role: str):
    uow = _Recording(grants)
    caller = Caller(principal=principal, request_id="r-1", address="192.0.2.7")
    recorder = Recorder(cast("UnitOfWork", uow), caller, SettableClock(), CountedIds())
    experiment = an_experiment()

    _run(recorder.audit("experiment", str(experiment.id), HOME, "update", after={"name": "B"}))

    (record,) = uow.records
    assert (record.actor, record.role) == (actor, role)
    assert (record.request_id, record.address) == ("r-1", "192.0.2.7")
    assert (record.target_type, record.target_id) == ("experiment", str(experiment.id))
    assert (record.action, record.before, record.after) == ("update", None, {"name": "B"})
    assert record.at == NOW


def test_everything_in_one_unit_of_work_happens_at_once():
    clock = SettableClock()
    uow = cast("UnitOfWork", _UnitOfWork(Grants(actor="ann")))
    recorder = Recorder(uow, Caller(principal=User(id="ann")), clock, CountedIds())
    moments: list[datetime] = [recorder.now]
    clock.pass_by(1)
    moments.append(recorder.now)
    assert moments == [NOW, NOW]
