"""What every `RunCards` promises, and what the use case makes of a card."""

from uuid import UUID

import pytest

from entities import a_batch, a_column, fresh
from experiment_domain import Work
from experiment_domain.captures import CaptureStatus
from experiment_domain.cards import SHOWN_CHANGES, SHOWN_SESSIONS
from experiment_domain.kernel.access import Principal, Role
from experiment_domain.kernel.errors import NotFound
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases.cards import SummarisedCard
from laboratory import Laboratory


async def the_card(lab: Laboratory, run_id: UUID, by: Principal | None = None) -> SummarisedCard:
    return await lab.ask(lambda work: work.cards.of_run(run_id), by=by)


@pytest.mark.covers("cards.of_run")
async def test_a_card_shows_what_belongs_to_a_run(lab: Laboratory):
    run = await lab.run(start=True, tags=["nightly"], notes="full load")
    other = await lab.run(await lab.experiment(), start=True)
    converted, plain = await lab.sensor(run, name="A"), await lab.sensor(run, other, name="B", signals=["x"])
    profile = await lab.profile(converted, 2.0, 1.0)
    at = micros(lab.clock.now())
    first = await lab.session(run)
    await lab.ingest(converted, a_batch(a_column([at, at + 1], [1.0, 2.0]), session=first.id))
    await lab.ingest(plain, a_batch(a_column([at], [7.0], "x"), session=first.id))
    await lab.stop(first)
    await lab.ingest(converted, a_batch(a_column([at + 2], [3.0]), session=first.id))
    second = await lab.session(run)
    hidden = await lab.do(lambda work: work.captures.create(other.id))
    approved = await lab.do(lambda work: work.artifacts.register(run.id, name="Model", uri="s3://models/1"))
    await lab.do(lambda work: work.artifacts.register(run.id, name="Plot", uri="s3://plots/1"))
    approved = await lab.do(lambda work: work.artifacts.approve(approved.id))

    found = await the_card(lab, run.id)
    card = found.card
    assert (card.project, card.run.id, card.experiment.id) == (lab.project, run.id, run.experiment_id)
    assert [bound.sensor.name for bound in card.sensors] == ["A", "B"]
    assert card.sensor_count == 2
    assert [session.id for session in card.sessions] == [second.id, first.id]
    assert hidden.id not in {session.id for session in card.sessions}
    assert card.session_counts == {CaptureStatus.SUCCEEDED: 1, CaptureStatus.RUNNING: 1}
    assert list(card.sessions[1].pins) == list(first.pins)
    assert list(card.artifacts) == [approved]
    assert card.artifact_counts == {"approved": 1, "pending": 1}
    assert [(change.entity_type, change.target) for change in card.changes] == [
        ("capture_session", "running"),
        ("capture_session", "succeeded"),
        ("capture_session", "running"),
        ("run", "running"),
    ]
    assert found.metrics is not None
    physical, raw = sorted(found.metrics, key=lambda metrics: metrics.layer)
    assert (physical.layer, physical.profile_id, physical.late) == (Layer.PHYSICAL, profile.id, 1)
    assert physical.statistics is not None
    assert (physical.statistics.count, physical.statistics.minimum, physical.statistics.maximum) == (3, 3.0, 7.0)
    assert (raw.layer, raw.signal, raw.late) == (Layer.RAW, "x", 0)


@pytest.mark.covers("cards.of_run")
async def test_raw_values_are_summed_up_for_those_who_may_read_them(lab: Laboratory):
    run = await lab.run(start=True)
    sensor = await lab.sensor(run)
    session = await lab.session(run)
    await lab.ingest(sensor, a_batch(a_column([micros(lab.clock.now())], [1.0]), session=session.id))
    owners, viewers = await the_card(lab, run.id), await the_card(lab, run.id, lab.viewer)
    assert owners.metrics is not None
    assert [metrics.layer for metrics in owners.metrics] == [Layer.RAW]
    assert list(viewers.metrics or ()) == []
    assert owners.tag != viewers.tag
    await lab.do(lambda work: work.projects.edit(lab.project.id, raw_readers=[Role.VIEWER, Role.OWNER]))
    assert (await the_card(lab, run.id, lab.viewer)).tag == owners.tag
    await lab.do(lambda work: work.projects.edit(lab.project.id, physical_only=True))
    assert list((await the_card(lab, run.id)).metrics or ()) == []


async def test_a_tag_changes_with_everything_that_is_shown_and_with_nothing_else(lab: Laboratory):
    run = await lab.run()
    sensor = await lab.sensor()
    experiment_id, sensor_id = run.experiment_id, sensor.sensor.id
    made: dict[str, UUID] = {}

    async def begin(work: Work) -> None:
        made["session"] = (await work.captures.create(run.id, start=True)).id

    async def register(work: Work) -> None:
        made["artifact"] = (await work.artifacts.register(run.id, name="M", uri="s3://m")).id

    async def ingest(offset: int) -> None:
        at = micros(lab.clock.now()) + offset
        await lab.ingest(sensor, a_batch(a_column([at], [1.0]), session=made["session"]))

    steps = [
        lambda: lab.do(lambda work: work.runs.edit(run.id, notes="other")),
        lambda: lab.do(lambda work: work.experiments.edit(experiment_id, name="other")),
        lambda: lab.do(lambda work: work.runs.bind(run.id, sensor_id)),
        lambda: lab.do(lambda work: work.sensors.edit(sensor_id, name="other")),
        lambda: lab.do(lambda work: work.runs.start(run.id)),
        lambda: lab.do(begin),
        lambda: ingest(0),
        lambda: ingest(1),
        lambda: lab.do(lambda work: work.captures.stop(made["session"], CaptureStatus.FAILED)),
        lambda: ingest(2),
        lambda: lab.do(register),
        lambda: lab.do(lambda work: work.artifacts.approve(made["artifact"])),
        lambda: lab.do(lambda work: work.captures.delete(made["session"])),
        lambda: lab.do(lambda work: work.runs.unbind(run.id, sensor_id)),
        lambda: lab.do(lambda work: work.runs.finish(run.id)),
    ]
    tags = [(await the_card(lab, run.id)).tag]
    for number, step in enumerate(steps):
        await step()
        tags.append((await the_card(lab, run.id)).tag)
        assert tags[-1] not in tags[:-1], number
        assert (await the_card(lab, run.id)).tag == tags[-1]
    await lab.run()
    known = await lab.ask(lambda work: work.cards.of_run(run.id, known=["x", tags[-1]]))
    assert (known.tag, known.metrics) == (tags[-1], None)
    assert (await lab.ask(lambda work: work.cards.of_run(run.id, known=tags[:-1]))).metrics is not None


async def test_a_card_is_bounded(lab: Laboratory):
    run = await lab.run(start=True)
    for _ in range(SHOWN_SESSIONS + 3):
        await lab.session(run, start=False)
    await lab.sensor(run)
    for _ in range(SHOWN_CHANGES):
        await lab.stop(await lab.session(run))
    card = (await the_card(lab, run.id)).card
    assert [session.ordinal for session in card.sessions] == list(range(SHOWN_SESSIONS + 3 + SHOWN_CHANGES, 23, -1))
    assert card.session_counts == {CaptureStatus.DRAFT: SHOWN_SESSIONS + 3, CaptureStatus.SUCCEEDED: SHOWN_CHANGES}
    assert len(card.changes) == SHOWN_CHANGES


async def test_nobody_else_sees_it(lab: Laboratory):
    run = await lab.run()
    for run_id, by in ((run.id, lab.outsider), (fresh(), lab.owner)):
        with pytest.raises(NotFound):
            await the_card(lab, run_id, by)
