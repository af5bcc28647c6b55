"""The types of events: all that can be told, and nothing else."""

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

import experiment_domain
from experiment_domain import events
from experiment_domain.events import EVENT_TYPES, check_event_filter, check_event_types
from experiment_domain.kernel.errors import Invalid
from experiment_domain.kernel.events import Event, EventData, event_type
from experiment_domain.usecases.recording import Recorder

SOURCES = Path(experiment_domain.__file__).parent
PROJECT, THING = UUID(int=1), UUID(int=2)
AT = datetime(2026, 3, 9, 11, 14, 33, 7, tzinfo=UTC)


def calls_of(name: str) -> Iterator[str]:
    """The files in which a class is called, by its own name or one of its alternative constructors."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield path.relative_to(SOURCES).as_posix()


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_events_are_made_of_their_types_only():
    # `Event.of` is the one way: whoever fills in a type by hand would be found here.
    assert set(calls_of("Event")) == set()


def test_every_type_is_told_somewhere():
    told = set[str]().union(*(names_in(path) for path in SOURCES.rglob("*.py") if path != Path(str(events.__file__))))
    assert {kind.__name__ for kind in EVENT_TYPES.values()} - told == set()


def test_every_class_of_data_belongs_to_a_type():
    leaves, left = set[type[EventData]](), [EventData]
    while left:
        kinds = [kind for kind in left.pop().__subclasses__() if kind.__module__ == events.__name__]
        leaves |= {kind for kind in kinds if not kind.__subclasses__()}
        left += kinds
    # attrs makes classes with slots anew: the first of two stays around until it is collected.
    assert {kind.__name__ for kind in leaves} == {kind.__name__ for kind in EVENT_TYPES.values()}


def test_what_is_no_type_is_refused_where_it_is_defined():
    with pytest.raises(TypeError, match="entered already"):

        @event_type("run.started", about="run")
        class Again(EventData):  # pyright: ignore[reportUnusedClass]
            """Once more."""

    with pytest.raises(TypeError, match="no type of events"):

        @event_type("Started", about="run")
        class Nameless(EventData):  # pyright: ignore[reportUnusedClass]
            """Something."""

    with pytest.raises(TypeError, match=r"what run\.vanished means"):

        @event_type("run.vanished", about="run")
        class Meaningless(EventData):  # pyright: ignore[reportUnusedClass]
            pass

    assert "run.vanished" not in EVENT_TYPES


async def emitted(event: Event) -> None:
    recorder = Recorder(None, None, None, None)  # pyright: ignore[reportArgumentType] - it comes to none of them
    await recorder.emit(event, actor="ada")


def test_what_is_no_type_is_not_recorded():
    with pytest.raises(RuntimeError, match=r"run\.vanished is not among the types"):
        emitted(Event(type="run.vanished", project_id=PROJECT, subject="run/1", at=AT)).send(None)
    with pytest.raises(RuntimeError, match=r"webhook\.test is not among the types"):
        emitted(Event(type="webhook.test", project_id=PROJECT, subject="run/1", at=AT)).send(None)


def test_data_are_json():
    pin = events.PinnedProfile(sensor_id=THING, profile_id=None, profile_version=None)
    said = events.CaptureStarted(run_id=THING, ordinal=1, from_="draft", reason=None, pins=(pin,))
    event = Event.of(said, project_id=PROJECT, about=THING, at=AT)
    assert (event.type, event.subject) == ("capture.started", f"capture_session/{THING}")
    assert event.data == {
        "run_id": str(THING),
        "ordinal": 1,
        "from": "draft",
        "reason": None,
        "pins": [{"sensor_id": str(THING), "profile_id": None, "profile_version": None}],
    }
    disabled = events.WebhookDisabled(reason="gone", origin="https://hooks.example", failing_since=AT)
    assert disabled.facts()["failing_since"] == "2026-03-09T11:14:33.000007Z"


@pytest.mark.parametrize("name", ["run.vanished", "run", "run.*", "*", "webhook.test", ""])
def test_types_that_are_in_no_feed(name: str):
    with pytest.raises(Invalid) as refusal:
        check_event_types("types", ["run.started", name])
    (error,) = refusal.value.errors
    assert error["path"] == "types[1]"
    assert "capture.archived, capture.backfill.cancelled, " in error["message"]
    assert "webhook.test" not in error["message"]


@pytest.mark.parametrize("pattern", ["run.vanished", "runs.*", "run.started.*", "webhook.test", "capture.back.*"])
def test_filters_that_let_nothing_through(pattern: str):
    with pytest.raises(Invalid, match=r"artifact\.approved, "):
        check_event_filter("event_types[0]", pattern)


def test_all_types_are_let_through():
    recorded = [name for name, kind in EVENT_TYPES.items() if kind.is_recorded]
    check_event_types("types", recorded)
    for name in [*recorded, "*", "run.*", "capture.backfill.*", "webhook.*"]:
        check_event_filter("event_types[0]", name)
