"""Events as CloudEvents 1.0, structured: what goes over the wire to whoever is told of them."""

from datetime import UTC
from typing import Any

from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.kernel.values import told

MEDIA_TYPE = "application/cloudevents+json"


def cloud_event(recorded: RecordedEvent) -> dict[str, Any]:
    """The event in the JSON format of CloudEvents 1.0, with `projectid` and, where it is known, `actor` as extensions.

    `source` and `id` together tell one event from every other, however often it is delivered.
    """
    event = recorded.event
    return {
        "specversion": "1.0",
        "id": str(recorded.id),
        "source": f"/api/v1/projects/{event.project_id}",
        "type": event.type,
        "subject": event.subject,
        "time": told(event.at.astimezone(UTC)),
        "projectid": str(event.project_id),
        **({"actor": recorded.actor} if recorded.actor else {}),
        "datacontenttype": "application/json",
        "data": dict(event.data),
    }
