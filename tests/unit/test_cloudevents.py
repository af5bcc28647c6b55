"""Events on the wire."""

from datetime import datetime, timedelta, timezone
from uuid import UUID

from experiment_domain.kernel.cloudevents import cloud_event
from experiment_domain.kernel.events import Event, RecordedEvent

PROJECT = UUID("01957989-14c8-7bb2-8f0d-6a0c1d7e4f52")
EVENT = UUID("0195798b-4c3d-7e2f-9a1b-0c9d8e7f6a5b")
AT = datetime(2026, 3, 9, 11, 14, 33, 7, tzinfo=timezone(timedelta(hours=1)))


def test_an_event_is_a_cloud_event():
    event = Event(type="run.started", project_id=PROJECT, subject="run/1", at=AT, data={"from": "draft"})
    assert cloud_event(RecordedEvent(id=EVENT, event=event, actor="ada")) == {
        "specversion": "1.0",
        "id": str(EVENT),
        "source": f"/api/v1/projects/{PROJECT}",
        "type": "run.started",
        "subject": "run/1",
        "time": "2026-03-09T10:14:33.000007Z",
        "projectid": str(PROJECT),
        "actor": "ada",
        "datacontenttype": "application/json",
        "data": {"from": "draft"},
    }


def test_who_is_not_known_is_not_named():
    event = Event(type="run.started", project_id=PROJECT, subject="run/1", at=AT)
    assert "actor" not in cloud_event(RecordedEvent(id=EVENT, event=event, actor=""))
