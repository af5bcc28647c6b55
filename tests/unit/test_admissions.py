"""What is remembered of admissions: of few senders, little of each, and of none what would not hold."""

from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from entities import NOW, a_sensor, fresh, later
from experiment_domain.captures import CaptureStatus
from experiment_domain.sensors import SIGN_OF_LIFE_EVERY, Sensor
from experiment_domain.telemetry.admissions import FEW_SIGNALS, Admissions
from experiment_domain.telemetry.store import Admission, Destination, Receipt

SESSION = fresh()


def _admission(sensor: Sensor | None = None, **values: Any) -> Admission:
    destination = Destination(
        capture_session_id=SESSION,
        project_id=fresh(),
        run_id=fresh(),
        status=CaptureStatus.RUNNING,
        profile=None,
        **values,
    )
    return Admission(sensor=sensor or a_sensor(last_seen_at=NOW), destinations=[destination], future_tolerance=1.0)


def _noted(admissions: Admissions, admission: Admission, session_id: UUID = SESSION) -> Admission | None:
    token_hash = admission.sensor.token_hash
    admissions.note(token_hash, session_id, admission, NOW)
    return admissions.find(token_hash, session_id)


def test_what_is_found_is_remembered_by_token_and_session() -> None:
    admissions, admission = Admissions(), _admission()
    assert _noted(admissions, admission) == admission
    assert admissions.find(admission.sensor.token_hash, fresh()) is None
    assert admissions.find(b"another", SESSION) is None
    later_one = evolve(admission, future_tolerance=2.0)
    assert _noted(admissions, later_one) == later_one


def test_those_that_were_not_heard_of_for_longest_are_forgotten() -> None:
    admissions = Admissions(most=2)
    first, second, third = (_admission() for _ in range(3))
    for one in (first, second, first, third):
        _noted(admissions, one)
    found = [admissions.find(one.sensor.token_hash, SESSION) for one in (first, second, third)]
    assert found == [first, None, third]


def test_what_no_batch_is_judged_by_takes_no_room() -> None:
    admission = _admission(a_sensor(last_seen_at=NOW, metadata={"rack": "7" * 10_000}))
    receipt = Receipt(
        capture_session_id=SESSION,
        sensor_id=admission.sensor.id,
        key="id:1",
        digest=b"",
        accepted=1,
        late=0,
        received_at=NOW,
    )
    found = _noted(Admissions(), evolve(admission, repeated={receipt.key: receipt}))
    assert found is not None
    assert (found.sensor.metadata, found.repeated) == ({}, {})


@pytest.mark.parametrize(("signals", "is_remembered"), [(FEW_SIGNALS, True), (FEW_SIGNALS + 1, False)])
def test_sensors_with_many_signals_are_not_remembered(signals: int, is_remembered: bool) -> None:
    admission = _admission(signals=frozenset(map(str, range(signals))))
    assert (_noted(Admissions(), admission) is not None) is is_remembered


def test_a_rotated_token_is_not_remembered() -> None:
    admissions, admission = Admissions(), _admission()
    admissions.note(b"the previous one", SESSION, admission, NOW)
    assert admissions.find(b"the previous one", SESSION) is None


def test_a_sign_of_life_that_was_due_has_been_given() -> None:
    ago = later(-SIGN_OF_LIFE_EVERY.total_seconds())
    for last_seen_at, expected in ((None, NOW), (ago, NOW), (later(-1), later(-1))):
        found = _noted(Admissions(), _admission(a_sensor(last_seen_at=last_seen_at)))
        assert found is not None
        assert found.sensor.last_seen_at == expected
