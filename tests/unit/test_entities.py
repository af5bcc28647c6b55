"""Aggregates: what they are made of, what they refuse, and what their changes tell the audit log."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from entities import (
    NOW,
    a_profile,
    a_project,
    a_run,
    a_sensor,
    a_session,
    an_artifact,
    an_experiment,
    fresh,
    later,
)
from experiment_domain.artifacts import Artifact, ArtifactStatus, same_checksum
from experiment_domain.captures import CaptureSession, CaptureStatus, Pin, readings_are_late
from experiment_domain.conversions.profiles import ConversionProfile, ProfileStatus
from experiment_domain.conversions.rules import Linear, ProfileKind, ValidRange
from experiment_domain.experiments import Experiment, ExperimentStatus
from experiment_domain.kernel.access import Role
from experiment_domain.kernel.entity import Page, differences, facts
from experiment_domain.kernel.errors import Conflict, Invalid, InvalidTransition
from experiment_domain.projects import Member, Project, check_owner_remains
from experiment_domain.runs import Run, RunStatus
from experiment_domain.sensors import (
    LONGEST_GRACE,
    SIGN_OF_LIFE_EVERY,
    TOKEN_PREFIX,
    Sensor,
    SensorStatus,
    new_token,
    token_hash,
)
from strategies import rules, valid_ranges

WHEN = later(60)
ENTITIES = [a_project, an_experiment, a_run, a_session, a_sensor, a_profile, an_artifact]


def _refused(code: str, command: Callable[[], Any]) -> Conflict:
    with pytest.raises(Conflict) as refusal:
        command()
    assert refusal.value.code == code
    return refusal.value


def _invalid(path: str, command: Callable[[], Any]) -> None:
    with pytest.raises(Invalid) as refusal:
        command()
    assert [error["path"] for error in refusal.value.errors] == [path]


EDITED: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (a_project, {"name": "Rig 8", "physical_only": True, "raw_readers": ["owner"], "future_tolerance": 1.0}),
    (an_experiment, {"name": "B", "tags": ("x",), "metadata": {"a": [1]}, "description": "d"}),
    (a_run, {"name": "B", "params": {"t": 1.5}, "git_sha": "ABCDEF1", "participants": ("eve",), "notes": None}),
    (a_sensor, {"name": "B", "signals": ("x", "y"), "metadata": {"a": None}, "display_unit": "K"}),
    (a_profile, {"notes": "new", "kind": ProfileKind.LINEAR, "parameters": {"a": 3, "b": 0}}),
]


@pytest.mark.parametrize(("make", "values"), EDITED, ids=lambda it: getattr(it, "__name__", ""))
def test_an_edit_makes_a_new_version_and_repeating_it_makes_none(make: Callable[..., Any], values: dict[str, Any]):
    entity = make()
    change = entity.edit(at=WHEN, **values)
    assert change.before is entity
    assert (change.result.version, change.result.updated_at) == (2, WHEN)
    assert change.result.edit(at=later(120), **values).is_empty


def test_who_read_an_older_version_is_told_of_the_newer_one():
    session = a_session(version=3)
    session.expect(3)
    session.expect(None)
    refusal = _refused("version_mismatch", lambda: session.expect(2))
    assert refusal.detail == "This capture session has changed since you read it; it is at version 3 now."


def _an_artifact_of(run: Run, **values: Any) -> Any:
    values = {"name": "A", "uri": "s3://b/k", **values}
    return Artifact.register(artifact_id=fresh(), run=run, at=NOW, by="ann", **values)


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("archived", lambda: an_experiment(status=ExperimentStatus.ARCHIVED).edit(at=WHEN, name="B")),
    ("archived", lambda: an_experiment(status=ExperimentStatus.ARCHIVED).check_accepts_runs()),
    ("experiment_over", lambda: an_experiment(status=ExperimentStatus.FINISHED).check_accepts_runs()),
    ("archived", lambda: a_run(status=RunStatus.ARCHIVED).edit(at=WHEN, tags=("x",))),
    ("archived", lambda: a_run(status=RunStatus.ARCHIVED).check_binds()),
    ("run_over", lambda: a_run(status=RunStatus.FAILED).check_binds()),
    ("archived", lambda: readings_are_late(CaptureStatus.ARCHIVED)),
    ("session_not_started", lambda: readings_are_late(CaptureStatus.DRAFT)),
    ("sensor_retired", lambda: a_sensor(status=SensorStatus.RETIRED).edit(at=WHEN, name="B")),
    ("sensor_retired", lambda: a_sensor(status=SensorStatus.RETIRED).check_delivers()),
    ("sensor_inactive", lambda: a_sensor(status=SensorStatus.INACTIVE).check_delivers()),
    (
        "sensor_retired",
        lambda: a_sensor(status=SensorStatus.RETIRED).rotate_token(token_hash=b"", grace=0.0, at=WHEN),
    ),
    ("not_draft", lambda: a_profile(status=ProfileStatus.PUBLISHED).edit(at=WHEN, notes="x")),
    ("not_draft", lambda: a_profile(status=ProfileStatus.RETIRED).edit(at=WHEN, notes="x")),
    ("not_draft", lambda: an_experiment(status=ExperimentStatus.RUNNING).remove(has_runs=False)),
    ("has_runs", lambda: an_experiment().remove(has_runs=True)),
    ("not_draft", lambda: a_run(status=RunStatus.FINISHED).remove(has_sessions=False, has_artifacts=False)),
    ("has_capture_sessions", lambda: a_run().remove(has_sessions=True, has_artifacts=False)),
    ("has_artifacts", lambda: a_run().remove(has_sessions=False, has_artifacts=True)),
    ("archived", lambda: _an_artifact_of(a_run(status=RunStatus.ARCHIVED))),
    ("checksum_mismatch", lambda: an_artifact(checksum="sha256:aa").check_is(checksum="sha256:ab", size=None)),
    ("checksum_mismatch", lambda: an_artifact(checksum="sha256:aa").check_is(checksum="md5:aa", size=None)),
    ("checksum_mismatch", lambda: an_artifact(checksum="crc:aa").check_is(checksum="crc:AA", size=None)),
    ("size_mismatch", lambda: an_artifact(size=0).check_is(checksum=None, size=1)),
    ("sensor_has_recorded", lambda: a_sensor().remove(active_sessions=(), has_recorded=True)),
    (
        "sensor_bound",
        lambda: a_sensor().remove(active_sessions=(), has_recorded=False, is_bound_for_good=True),
    ),
    ("not_deletable", lambda: a_session(status=CaptureStatus.RUNNING).delete(at=WHEN)),
    ("not_deletable", lambda: a_session(status=CaptureStatus.SUCCEEDED).delete(at=WHEN)),
    ("not_deletable", lambda: a_session(status=CaptureStatus.ARCHIVED).delete(at=WHEN)),
]


@pytest.mark.parametrize(("code", "command"), REFUSED, ids=[str(place) for place in range(len(REFUSED))])
def test_what_stands_against_it(code: str, command: Callable[[], Any]):
    _refused(code, command)


@pytest.mark.parametrize("target", ["finished", "failed", "archived"])
def test_an_experiment_ends_only_after_its_runs(target: str):
    experiment, running = an_experiment(status=ExperimentStatus.RUNNING), fresh()
    refusal = _refused(
        "running_runs", lambda: experiment.end(ExperimentStatus(target), running_runs=[running], at=WHEN)
    )
    assert refusal.facts["running_runs"] == [str(running)]


@pytest.mark.parametrize("target", ["finished", "failed", "archived"])
def test_a_run_ends_only_after_its_sessions(target: str):
    run, active = a_run(status=RunStatus.RUNNING), fresh()
    refusal = _refused("active_capture_sessions", lambda: run.end(RunStatus(target), active_sessions=[active], at=WHEN))
    assert refusal.facts["active_capture_sessions"] == [str(active)]


def test_times_of_start_and_end_are_kept():
    experiment = an_experiment().start(at=later(1)).result
    experiment = experiment.end(ExperimentStatus.FAILED, running_runs=(), at=later(2)).result
    experiment = experiment.end(ExperimentStatus.ARCHIVED, running_runs=(), at=later(3)).result
    assert (experiment.started_at, experiment.finished_at) == (later(1), later(2))
    run = a_run().start(experiment=an_experiment(status=ExperimentStatus.RUNNING), at=later(1)).result
    run = run.end(RunStatus.FINISHED, active_sessions=(), at=later(2)).result
    run = run.end(RunStatus.ARCHIVED, active_sessions=(), at=later(3)).result
    assert (run.started_at, run.finished_at) == (later(1), later(2))


@pytest.mark.parametrize("status", [status for status in ExperimentStatus if status != "running"])
def test_a_run_starts_only_in_a_running_experiment(status: ExperimentStatus):
    _refused("experiment_not_running", lambda: a_run().start(experiment=an_experiment(status=status), at=WHEN))


def test_a_run_tells_of_its_tags():
    run = a_run(tags=("a",))
    (event,) = run.edit(at=WHEN, tags=["b", "a", "b"]).events
    assert (event.type, event.data) == ("run.tagged", {"tags": ["b", "a"]})
    assert run.edit(at=WHEN, tags=["a"], notes="x").events == ()


PINS = (Pin(sensor_id=fresh(), profile_id=fresh(), profile_version=2),)


def test_a_session_starts_in_a_running_run_with_sensors_and_alone():
    run = a_run(status=RunStatus.RUNNING)
    session = a_session(run)

    def start(**values: Any) -> Any:
        return session.start(**{"run": run, "pins": PINS, "running_sessions": (), "at": WHEN, **values})

    for status in (RunStatus.DRAFT, RunStatus.FINISHED, RunStatus.ARCHIVED):
        _refused("run_not_running", lambda: start(run=a_run(status=status)))  # noqa: B023
    _refused("no_bound_sensors", lambda: start(pins=()))
    other = fresh()
    refusal = _refused("session_already_running", lambda: start(running_sessions=[other]))
    assert refusal.facts["active_capture_sessions"] == [str(other)]
    started = start().result
    assert (started.pins, started.started_at, started.is_running) == (PINS, WHEN, True)
    assert started.pin_of(PINS[0].sensor_id) == PINS[0]
    assert started.pin_of(fresh()) is None


@pytest.mark.parametrize("status", [RunStatus.FINISHED, RunStatus.FAILED])
def test_a_run_that_is_over_takes_no_more_sessions(status: RunStatus):
    def create(run: Run) -> Any:
        return CaptureSession.create(session_id=fresh(), run=run, ordinal=1, at=NOW, by="ann", notes=None)

    _refused("run_over", lambda: create(a_run(status=status)))
    _refused("archived", lambda: create(a_run(status=RunStatus.ARCHIVED)))


def test_a_failed_session_is_hidden_and_brought_back_and_a_draft_is_gone():
    assert a_session().delete(at=WHEN).after is None
    failed = a_session(status=CaptureStatus.FAILED)
    deleted = failed.delete(at=WHEN)
    assert deleted.result.deleted_at == WHEN
    assert [event.type for event in deleted.events] == ["capture.deleted"]
    assert deleted.result.restore(at=later(120)).result.deleted_at is None
    assert failed.restore(at=WHEN).is_empty


def test_a_sensor_is_active_from_its_first_sign_of_life():
    seen = a_sensor().seen(at=WHEN).result
    assert (seen.status, seen.last_seen_at) == ("active", WHEN)
    assert seen.seen(at=later(90)).is_empty
    assert not seen.is_due_for_a_sign(WHEN + SIGN_OF_LIFE_EVERY / 2)
    assert seen.is_due_for_a_sign(WHEN + SIGN_OF_LIFE_EVERY)
    with pytest.raises(InvalidTransition):
        a_sensor(status=SensorStatus.RETIRED).seen(at=WHEN)


def test_a_sensor_in_use_is_neither_retired_nor_removed():
    sensor, session = a_sensor(), fresh()
    refusal = _refused("sensor_in_use", lambda: sensor.retire(active_sessions=[session], at=WHEN))
    assert str(session) not in f"{refusal.detail} {refusal.facts}"
    _refused("sensor_in_use", lambda: sensor.remove(active_sessions=[session], has_recorded=True))
    # Retired it is already, so nothing is asked for.
    assert a_sensor(status=SensorStatus.RETIRED).retire(active_sessions=[session], at=WHEN).is_empty


def test_a_rotated_token_lives_on_for_its_grace():
    sensor = a_sensor(token_hash=b"old")
    rotated = sensor.rotate_token(token_hash=b"new", grace=60.0, at=WHEN).result
    assert (rotated.token_hash, rotated.previous_token_hash) == (b"new", b"old")
    assert rotated.previous_token_dies_at == later(120)
    at_once = rotated.rotate_token(token_hash=b"newer", grace=0.0, at=WHEN).result
    assert (at_once.previous_token_hash, at_once.previous_token_dies_at) == (None, None)
    for grace in (-1.0, LONGEST_GRACE + 1, float("nan")):
        _invalid("grace", lambda: sensor.rotate_token(token_hash=b"new", grace=grace, at=WHEN))  # noqa: B023


def test_tokens_are_long_random_and_kept_as_hashes():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith(TOKEN_PREFIX) and len(token) >= 47 for token in tokens)
    assert len({token_hash(token) for token in tokens}) == 100


def test_a_project_keeps_an_owner():
    ann = Member.create(project_id=fresh(), user_id="ann", role=Role.OWNER, at=NOW)
    ben = evolve(ann, user_id="ben", role=Role.EDITOR)
    _refused("last_owner", lambda: check_owner_remains([ann, ben], "ann", Role.EDITOR))
    _refused("last_owner", lambda: check_owner_remains([ann, ben], "ann", None))
    check_owner_remains([ann, ben], "ann", Role.OWNER)
    check_owner_remains([ann, ben], "ben", None)
    check_owner_remains([ann, evolve(ben, role=Role.OWNER)], "ann", None)


LONG = "x" * 201
BAD_URIS = [
    *("", "model.onnx", "/data/model.onnx", "//host/model", "s3:", "3s://bucket/key", "s 3://bucket/key", ":x"),
    *("s3://bucket/a key", "s3://bucket/key\n", "s3://bucket/\u2028", "s3://bucket/\u00a0", "s3://\x7f", "s3://\x00"),
    *("javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x", "\tjavascript:alert(1)"),
    *("s3://\ud800", "s3://" + "x" * 1_996, "größe://x"),
]
BAD_CHECKSUMS = ["", " ", "sha256: aa", "sha256:", "SHA512:", "aa\n", "a\u2003b", "x" * 201, "\x01"]
BAD: list[tuple[str, Callable[[], Any]]] = [
    ("name", lambda: a_project().edit(at=WHEN, name="")),
    ("name", lambda: an_experiment().edit(at=WHEN, name=" padded")),
    ("name", lambda: a_run().edit(at=WHEN, name="two\nlines")),
    ("name", lambda: a_sensor().edit(at=WHEN, name=LONG)),
    ("name", lambda: a_run().edit(at=WHEN, name="null\x00")),
    ("name", lambda: a_run().edit(at=WHEN, name="lone \ud800")),
    ("description", lambda: an_experiment().edit(at=WHEN, description="x" * 10_001)),
    ("tags[1]", lambda: a_run().edit(at=WHEN, tags=["a", ""])),
    ("tags", lambda: a_run().edit(at=WHEN, tags=[str(number) for number in range(101)])),
    ("params.a", lambda: a_run().edit(at=WHEN, params={"a": float("nan")})),
    ("params.a", lambda: a_run().edit(at=WHEN, params={"a": 2**63})),
    ("params.a[0].b", lambda: a_run().edit(at=WHEN, params={"a": [{"b": float("inf")}]})),
    ("params.a", lambda: a_run().edit(at=WHEN, params={"a": "\x00"})),
    ("params.a", lambda: a_run().edit(at=WHEN, params={"a": {1: 2}})),
    ("params.a", lambda: a_run().edit(at=WHEN, params={"a": object()})),
    ("metadata", lambda: a_run().edit(at=WHEN, metadata={"a": "x" * 70_000})),
    ("git_sha", lambda: a_run().edit(at=WHEN, git_sha="abcdef")),
    ("git_sha", lambda: a_run().edit(at=WHEN, git_sha="abcdefg")),
    ("auto_close_after", lambda: a_run().edit(at=WHEN, auto_close_after=0.0)),
    ("auto_close_after", lambda: a_project().edit(at=WHEN, auto_close_after=float("nan"))),
    ("future_tolerance", lambda: a_project().edit(at=WHEN, future_tolerance=86_401.0)),
    ("raw_readers", lambda: a_project().edit(at=WHEN, raw_readers=["sensor"])),
    ("display_unit", lambda: a_sensor().edit(at=WHEN, display_unit="x" * 51)),
    ("output_unit", lambda: a_profile().edit(at=WHEN, output_unit="a\nb")),
    ("valid_range", lambda: a_profile().edit(at=WHEN, valid_range={"min": 2, "max": 1})),
    ("parameters.b", lambda: a_profile().edit(at=WHEN, parameters={"a": 1})),
    ("name", lambda: _an_artifact_of(a_run(), name=" ")),
    *(("uri", lambda uri=uri: _an_artifact_of(a_run(), uri=uri)) for uri in BAD_URIS),
    ("kind", lambda: _an_artifact_of(a_run(), kind="x" * 101)),
    ("kind", lambda: _an_artifact_of(a_run(), kind="")),
    *(("checksum", lambda text=text: _an_artifact_of(a_run(), checksum=text)) for text in BAD_CHECKSUMS),
    ("size", lambda: _an_artifact_of(a_run(), size=-1)),
    ("size", lambda: _an_artifact_of(a_run(), size=2**63)),
    ("metadata.a", lambda: _an_artifact_of(a_run(), metadata={"a": float("inf")})),
    ("role", lambda: Member.create(project_id=fresh(), user_id="ann", role=Role.SENSOR, at=NOW)),
    ("user_id", lambda: Member.create(project_id=fresh(), user_id="", role=Role.OWNER, at=NOW)),
]


@pytest.mark.parametrize(("path", "command"), BAD, ids=[f"{path}-{place}" for place, (path, _) in enumerate(BAD)])
def test_bad_fields_are_named(path: str, command: Callable[[], Any]):
    _invalid(path, command)


def test_json_is_bounded_in_depth():
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    _invalid("params", lambda: a_run().edit(at=WHEN, params={"a": deep}))
    a_run().edit(at=WHEN, params={"a": deep[0]})


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://bucket/größe.h5", "https://host/x?y=1#z", "file:///data/x", "urn:isbn:0451450523", "git+ssh://host/x"),
        *("hdfs://x", "dataset:x", "javascript-docs:x", "x:" + "y" * 1_998),
    ],
)
def test_links_lead_anywhere(uri: str):
    assert _an_artifact_of(a_run(), uri=uri).result.uri == uri


@pytest.mark.parametrize("checksum", ["sha256:zz", "9f86d081", "blake3:aa", "md5", ":", 'ETag="x"', "x" * 200])
def test_checksums_are_of_any_algorithm(checksum: str):
    assert _an_artifact_of(a_run(), checksum=checksum, size=2**63 - 1).result.checksum == checksum


def test_what_is_approved_is_what_was_registered():
    artifact = an_artifact(checksum="sha256:aB", size=7)
    artifact.check_is(checksum="SHA256:Ab", size=7)
    artifact.check_is(checksum=None, size=None)
    an_artifact().check_is(checksum="md5:aa", size=1)
    assert same_checksum("aa", "aa")
    assert not same_checksum("aa", "AA")


def test_an_artifact_tells_of_its_run_and_why():
    run = a_run()
    (event,) = _an_artifact_of(run).events
    assert event.data == {"run_id": str(run.id), "name": "A"}
    artifact = an_artifact(run)
    (event,) = artifact.move(ArtifactStatus.REJECTED, at=WHEN, reason="wrong file").events
    told = {"run_id": str(run.id), "name": artifact.name, "from": "pending", "reason": "wrong file"}
    assert (event.subject, event.data) == (f"artifact/{artifact.id}", told)


CREATED: list[tuple[Callable[[], Any], str | None]] = [
    (lambda: Project.create(project_id=fresh(), at=NOW, by="ann", name="A"), None),
    (
        lambda: Experiment.create(experiment_id=fresh(), project_id=fresh(), at=NOW, by="ann", name="A"),
        "experiment.created",
    ),
    (lambda: Run.create(run_id=fresh(), experiment=an_experiment(), at=NOW, by="ann", name="A"), "run.created"),
    (
        lambda: CaptureSession.create(session_id=fresh(), run=a_run(), ordinal=1, at=NOW, by="ann", notes="n"),
        "capture.created",
    ),
    (lambda: _an_artifact_of(a_run()), "artifact.registered"),
    (
        lambda: Sensor.register(
            sensor_id=fresh(),
            project_id=fresh(),
            token_hash=b"x",
            at=NOW,
            by="ann",
            name="A",
            sensor_type="t",
            input_unit="V",
            display_unit="K",
        ),
        "sensor.registered",
    ),
    (
        lambda: ConversionProfile.draft(
            profile_id=fresh(),
            project_id=fresh(),
            sensor_id=fresh(),
            profile_version=1,
            kind=ProfileKind.LINEAR,
            parameters={"a": 1, "b": 0},
            input_unit="V",
            output_unit="K",
            at=NOW,
            by="ann",
        ),
        None,
    ),
]


@pytest.mark.parametrize(("make", "event"), CREATED, ids=[str(event) for _, event in CREATED])
def test_what_is_new_is_at_its_first_version(make: Callable[[], Any], event: str | None):
    change = make()
    assert change.before is None
    assert change.result.version == 1
    assert (change.result.created_at, change.result.updated_at, change.result.created_by) == (NOW, NOW, "ann")
    assert [told.type for told in change.events] == ([event] if event else [])
    before, after = differences(change)
    assert before is None
    assert after is not None


def told_as(moment: datetime) -> str:
    """A time as the audit log tells it, which is as the API does."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize("make", ENTITIES, ids=lambda make: make.__name__)
def test_the_facts_of_an_entity_are_json(make: Callable[..., Any]):
    told = facts(make())
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["created_at"] == told_as(NOW)


def test_the_facts_of_a_session_tell_its_pins():
    (pin,) = facts(a_session(pins=PINS))["pins"]
    assert pin == {
        "sensor_id": str(PINS[0].sensor_id),
        "profile_id": str(PINS[0].profile_id),
        "profile_version": 2,
    }


def test_the_facts_of_a_sensor_tell_nothing_of_its_token():
    sensor = a_sensor(token_hash=b"s3cret", previous_token_hash=b"0ld")
    assert not {"token_hash", "previous_token_hash"} & facts(sensor).keys()
    assert "s3cret" not in repr(sensor)
    assert "0ld" not in repr(sensor)


@given(rules(), valid_ranges())
def test_the_facts_of_a_profile_tell_its_rule(rule: Any, valid_range: ValidRange | None):
    told = facts(a_profile(rule=rule, valid_range=valid_range))
    assert told["rule"] == {"kind": rule.kind, "parameters": rule.parameters}
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_the_differences_of_an_edit_are_the_fields_that_differ():
    profile = a_profile()
    change = profile.edit(at=WHEN, notes="steeper", parameters={"a": 3, "b": 1})
    assert change.result.rule == Linear(3.0, 1.0)
    before, after = differences(change)
    assert before == {
        "version": 1,
        "updated_at": told_as(NOW),
        "notes": None,
        "rule": {"kind": "linear", "parameters": {"a": 2.0, "b": 1.0}},
    }
    assert after == {
        "version": 2,
        "updated_at": told_as(WHEN),
        "notes": "steeper",
        "rule": {"kind": "linear", "parameters": {"a": 3.0, "b": 1.0}},
    }


@given(st.lists(st.integers(), max_size=8), st.integers(1, 8))
def test_a_page_is_followed_by_another_only_where_there_is_more(found: list[int], limit: int):
    page = Page.of(found[: limit + 1], limit, lambda last: ("at", last))
    assert list(page.items) == found[:limit]
    assert page.next == (("at", found[limit - 1]) if len(found) > limit else None)
