"""Readings through the library's door: where they go, who reads them, and under which calibration."""

import asyncio
import math
from typing import Any

import pytest
from attrs import evolve

from entities import NOW, a_batch, a_column, fresh
from experiment_domain import Work
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.kernel.access import Role, SensorToken, User
from experiment_domain.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from experiment_domain.runs import Run
from experiment_domain.sensors import new_token, token_hash
from experiment_domain.telemetry.batches import BadReadings, Batch, micros
from experiment_domain.telemetry.grids import GridQuestion
from experiment_domain.telemetry.store import Layer, ReadingQuery
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases import telemetry
from experiment_domain.usecases.sensors import SensorWithToken
from experiment_domain.usecases.telemetry import Accepted, LayerReadings
from laboratory import Laboratory, token_of

T0 = micros(NOW)
ONE = a_batch(a_column([1], [10.0]))


async def _recording(lab: Laboratory, **values: Any) -> tuple[Run, SensorWithToken, CaptureSession]:
    run = await lab.run(start=True)
    made = await lab.sensor(run, **values)
    return run, made, await lab.session(run)


def _query(session: CaptureSession, made: SensorWithToken, **values: Any) -> ReadingQuery:
    plain: dict[str, Any] = {
        "capture_session_id": session.id,
        "sensor_id": made.sensor.id,
        "signal": "value",
        "layer": Layer.PHYSICAL,
        "limit": 1_000,
    }
    return ReadingQuery(**{**plain, **values})


async def _read(
    lab: Laboratory,
    session: CaptureSession,
    made: SensorWithToken,
    layer: Layer | None = None,
    by: User | None = None,
    **values: Any,
) -> LayerReadings:
    query = _query(session, made, **values)
    return await lab.ask(lambda work: work.telemetry.read(query, layer=layer), by=by)


def _values(found: LayerReadings) -> dict[int, float]:
    return dict(zip(found.readings.timestamps, found.readings.values, strict=True))


@pytest.mark.covers("telemetry.ingest")
async def test_a_batch_goes_to_the_only_running_session(lab: Laboratory):
    _, made, session = await _recording(lab)
    accepted = await lab.ingest(made, ONE)
    assert accepted == Accepted(capture_session_id=session.id, accepted=1, late=0, duplicate=False)
    await lab.stop(session)
    with pytest.raises(Conflict) as refusal:
        await lab.ingest(made, a_batch(a_column([2], [1.0])))
    assert refusal.value.code == "no_running_session"


async def test_a_sensor_does_not_deliver_ever_more_signals(lab: Laboratory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(telemetry, "SIGNALS_OF_SENSOR", 4)
    run, made, session = await _recording(lab)

    def batch(*signals: str, at: int = 1) -> Batch:
        return a_batch(*(a_column([at], [1.0], signal) for signal in signals))

    await lab.ingest(made, batch("a", "b", "c"))
    with pytest.raises(Invalid, match="at most 4 signals"):
        await lab.ingest(made, batch("c", "d", "e"))
    # Of batches that come together each is judged with those before it; what brings nothing new is always taken.
    outcomes = await lab.do(
        lambda work: work.telemetry.ingest_all([batch("d"), batch("e"), batch("a", "d", at=2)]), by=token_of(made)
    )
    assert [isinstance(outcome, Accepted) for outcome in outcomes] == [True, False, True]
    assert [series.signal for series in await lab.ask(lambda work: work.telemetry.series(session.id))] == list("abcd")
    # It counts for each session and each sensor by itself.
    other = await lab.sensor(run)
    await lab.stop(session)
    await lab.session(run)
    for sender in (made, other):
        await lab.ingest(sender, batch("w", "x", "y", "z"))


async def test_among_several_running_sessions_one_is_to_be_named(lab: Laboratory):
    _, made, session = await _recording(lab)
    other_run = await lab.run(start=True)
    await lab.do(lambda work: work.runs.bind(other_run.id, made.sensor.id))
    other = await lab.session(other_run)
    with pytest.raises(Conflict) as refusal:
        await lab.ingest(made, ONE)
    assert refusal.value.code == "ambiguous_session"
    assert sorted(refusal.value.facts["running_capture_sessions"]) == sorted([str(session.id), str(other.id)])
    accepted = await lab.ingest(made, evolve(ONE, capture_session_id=other.id))
    assert accepted.capture_session_id == other.id


async def test_a_session_that_is_named_takes_the_readings_of_its_sensors(lab: Laboratory):
    run, made, session = await _recording(lab)
    stranger = await lab.sensor()
    late_comer = await lab.sensor(run)
    foreign = await Laboratory.open(lab.units)
    _, _, hidden = await _recording(foreign)
    named = evolve(ONE, capture_session_id=session.id)
    for sender in (stranger, late_comer):
        with pytest.raises(Conflict) as refusal:
            await lab.ingest(sender, named)
        assert refusal.value.code == "sensor_not_in_session"
    for nowhere in (fresh(), hidden.id):
        with pytest.raises(NotFound):
            await lab.ingest(made, evolve(ONE, capture_session_id=nowhere))
    with pytest.raises(Unauthenticated):
        await lab.do(lambda work: work.telemetry.ingest(named), by=SensorToken(token_hash=token_hash(new_token())))
    for person in (lab.owner, lab.outsider):
        with pytest.raises(Forbidden):
            await lab.do(lambda work: work.telemetry.ingest(named), by=person)


@pytest.mark.covers("captures.archive")
async def test_a_session_takes_no_readings_before_it_started_nor_after_it_was_archived(lab: Laboratory):
    run, made, session = await _recording(lab)
    draft = await lab.session(run, start=False)
    with pytest.raises(Conflict) as refusal:
        await lab.ingest(made, evolve(ONE, capture_session_id=draft.id))
    assert refusal.value.code == "session_not_started"
    await lab.stop(session)
    await lab.do(lambda work: work.captures.archive(session.id))
    with pytest.raises(Conflict) as refusal:
        await lab.ingest(made, evolve(ONE, capture_session_id=session.id))
    assert refusal.value.code == "archived"


@pytest.mark.covers("captures.delete", "captures.restore", "telemetry.read")
async def test_a_deleted_session_takes_none_and_its_readings_come_back_with_it(lab: Laboratory):
    _, made, session = await _recording(lab)
    named = evolve(ONE, capture_session_id=session.id)
    await lab.ingest(made, named)
    await lab.stop(session, CaptureStatus.FAILED)
    await lab.do(lambda work: work.captures.delete(session.id))
    with pytest.raises(NotFound):
        await lab.ingest(made, a_batch(a_column([2], [1.0]), session=session.id))
    await lab.do(lambda work: work.captures.restore(session.id))
    assert _values(await _read(lab, session, made)) == {1: 10.0}


@pytest.mark.parametrize("outcome", [CaptureStatus.SUCCEEDED, CaptureStatus.FAILED])
@pytest.mark.covers("telemetry.ingest", "telemetry.metrics")
async def test_late_readings_are_taken_and_counted(lab: Laboratory, outcome: CaptureStatus):
    run, made, session = await _recording(lab)
    await lab.ingest(made, ONE)
    await lab.stop(session, outcome)
    late = a_batch(a_column([1, 2], [11.0, 12.0]), session=session.id)
    assert await lab.ingest(made, late) == Accepted(capture_session_id=session.id, accepted=2, late=2, duplicate=False)
    (series,) = await lab.ask(lambda work: work.telemetry.series(session.id))
    assert (series.count, series.late) == (2, 2)
    (metrics,) = await lab.ask(lambda work: work.telemetry.metrics(run.id))
    assert metrics.late == 2
    # Sent again it is answered as the first time.
    again = await lab.ingest(made, late)
    assert again == Accepted(capture_session_id=session.id, accepted=2, late=2, duplicate=True)


@pytest.mark.covers("telemetry.ingest")
async def test_sending_the_same_batch_again_changes_nothing(lab: Laboratory):
    _, made, session = await _recording(lab)
    for batch_id in (None, "b-1"):
        batch = a_batch(a_column([1, 2], [float(batch_id is None), 2.0]), batch_id=batch_id)
        first = await lab.ingest(made, batch)
        newer = a_batch(a_column([1], [99.0]), batch_id=f"newer than {batch_id}")
        await lab.ingest(made, newer)
        lab.clock.pass_by(60)
        again = await lab.ingest(made, batch)
        assert again == evolve(first, duplicate=True)
        # Not even the order of reception: what came between is still the latest.
        assert _values(await _read(lab, session, made)) == {1: 99.0, 2: 2.0}
    await lab.stop(session)
    assert (await lab.ingest(made, batch)).duplicate
    with pytest.raises(Conflict) as refusal:
        await lab.ingest(made, a_batch(a_column([1, 2], [5.0, 5.0]), batch_id="b-1"))
    assert refusal.value.code == "batch_id_reused"


async def test_a_batch_is_refused_whole(lab: Laboratory):
    _, made, session = await _recording(lab, signals=["t", "p"])
    newest = micros(lab.clock.at) + int(lab.project.future_tolerance * 1e6)
    bad = [
        a_batch(a_column([1, 2], [1.0, math.nan], "t")),
        a_batch(a_column([1], [1.0], "t"), a_column([2], [math.inf], "p")),
        a_batch(a_column([1, newest + 1], [1.0, 1.0], "t")),
        a_batch(a_column([1], [1.0], "t"), a_column([1], [1.0], "typo")),
    ]
    for batch in bad:
        with pytest.raises(BadReadings):
            await lab.ingest(made, batch)
    with pytest.raises(Invalid):
        await lab.ingest(made, a_batch())
    assert await lab.ask(lambda work: work.telemetry.series(session.id)) == []
    assert (await lab.ask(lambda work: work.sensors.get(made.sensor.id))).status == "registered"
    # What was refused can be sent again in good order, under the same id.
    await lab.ingest(made, a_batch(a_column([1, newest], [1.0, 1.0], "t"), batch_id="b-1"))
    assert (await lab.ask(lambda work: work.sensors.get(made.sensor.id))).status == "active"


@pytest.mark.covers("projects.create", "telemetry.ingest")
async def test_the_project_says_how_far_ahead_readings_may_be(units_of_work: UnitsOfWork):
    lab = await Laboratory.open(units_of_work, future_tolerance=2.0)
    _, made, _ = await _recording(lab)
    now = micros(lab.clock.at)
    await lab.ingest(made, a_batch(a_column([now + 2_000_000], [1.0])))
    with pytest.raises(BadReadings):
        await lab.ingest(made, a_batch(a_column([now + 2_000_001], [1.0])))


@pytest.mark.covers("conversions.publish", "telemetry.read", "telemetry.metrics")
async def test_what_is_converted_in_a_session_uses_the_version_it_pinned(lab: Laboratory):
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    first = await lab.profile(made, 2, 1, valid_range={"max": 50})
    session = await lab.session(run)
    await lab.ingest(made, a_batch(a_column([1, 2], [10.0, 60.0])))
    second = await lab.profile(made, 100, 0)
    await lab.ingest(made, a_batch(a_column([3], [20.0])))
    await lab.stop(session)
    await lab.ingest(made, a_batch(a_column([4], [30.0]), session=session.id))

    found = await _read(lab, session, made)
    assert (found.layer, found.profile_id) == (Layer.PHYSICAL, first.id)
    values = _values(found)
    assert (values[1], values[3], values[4]) == (21.0, 41.0, 61.0)
    assert math.isnan(values[2])
    (series,) = await lab.ask(lambda work: work.telemetry.series(session.id))
    assert (series.profile_id, series.count, series.out_of_range) == (first.id, 4, 1)

    following = await lab.session(run)
    await lab.ingest(made, a_batch(a_column([1], [10.0])))
    found = await _read(lab, following, made)
    assert (found.profile_id, _values(found)) == (second.id, {1: 1000.0})
    metrics = await lab.ask(lambda work: work.telemetry.metrics(run.id))
    assert {(it.profile_id, it.statistics.count, it.out_of_range) for it in metrics if it.statistics} == {
        (first.id, 3, 1),
        (second.id, 1, 0),
    }


@pytest.mark.covers("telemetry.read")
async def test_a_layer_is_chosen_or_named(lab: Laboratory):
    run = await lab.run(start=True)
    made, plain = await lab.sensor(run), await lab.sensor(run)
    profile = await lab.profile(made, 2, 1)
    session = await lab.session(run)
    for sender in (made, plain):
        await lab.ingest(sender, ONE)
    expected: list[tuple[SensorWithToken, Layer | None, dict[str, Any], Layer, dict[int, float]]] = [
        (made, None, {}, Layer.PHYSICAL, {1: 21.0}),
        (made, Layer.PHYSICAL, {}, Layer.PHYSICAL, {1: 21.0}),
        (made, None, {"profile_id": profile.id}, Layer.PHYSICAL, {1: 21.0}),
        (made, Layer.RAW, {}, Layer.RAW, {1: 10.0}),
        (plain, None, {}, Layer.RAW, {1: 10.0}),
        (plain, Layer.RAW, {}, Layer.RAW, {1: 10.0}),
        (plain, Layer.PHYSICAL, {}, Layer.PHYSICAL, {}),
    ]
    for sensor, asked, values, layer, wanted in expected:
        found = await _read(lab, session, sensor, asked, **values)
        assert (found.layer, _values(found)) == (layer, wanted)
        assert found.profile_id == (profile.id if layer is Layer.PHYSICAL and sensor is made else None)
    for sensor in (made, plain):
        with pytest.raises(NotFound):
            await _read(lab, session, sensor, profile_id=fresh())
    with pytest.raises(Invalid) as refusal:
        await _read(lab, session, made, Layer.RAW, profile_id=profile.id)
    assert refusal.value.code == "raw_has_no_profile"


async def test_a_series_without_readings_is_empty_and_one_that_can_have_none_is_not_found(lab: Laboratory):
    _, made, session = await _recording(lab, signals=["t"])
    assert _values(await _read(lab, session, made, signal="t")) == {}
    for values in ({"signal": "typo"}, {"sensor_id": fresh()}, {"sensor_id": (await lab.sensor()).sensor.id}):
        with pytest.raises(NotFound):
            await _read(lab, session, made, **{"signal": "t", **values})
    with pytest.raises(NotFound):
        await _read(lab, evolve(session, id=fresh()), made)


POLICIES: list[tuple[dict[str, Any], str]] = [
    ({}, "editor owner"),
    ({"raw_readers": ["owner"]}, "owner"),
    ({"raw_readers": ["viewer", "editor", "owner"]}, "viewer editor owner"),
    ({"raw_readers": []}, ""),
    ({"raw_readers": ["viewer", "editor", "owner"], "physical_only": True}, ""),
]


@pytest.mark.parametrize(
    ("policy", "readers"), POLICIES, ids=[readers or "nobody" for _, readers in POLICIES[:-1]] + ["physical only"]
)
@pytest.mark.covers("telemetry.read", "telemetry.metrics")
async def test_raw_values_leave_as_the_project_says(lab: Laboratory, policy: dict[str, Any], readers: str):
    run = await lab.run(start=True)
    made, plain = await lab.sensor(run), await lab.sensor(run)
    profile = await lab.profile(made, 2, 1)
    session = await lab.session(run)
    for sender in (made, plain):
        await lab.ingest(sender, ONE)
    if policy:
        await lab.do(lambda work: work.projects.edit(lab.project.id, **policy))

    for role, user in {Role.VIEWER: lab.viewer, Role.EDITOR: lab.editor, Role.OWNER: lab.owner}.items():
        for sensor in (made, plain):
            found = await _read(lab, session, sensor, by=user)
            if sensor is made:
                assert (found.layer, _values(found)) == (Layer.PHYSICAL, {1: 21.0})
            elif role in readers.split():
                assert (found.layer, _values(found)) == (Layer.RAW, {1: 10.0})
            else:
                assert (found.layer, _values(found)) == (Layer.PHYSICAL, {})
        metrics = await lab.ask(lambda work: work.telemetry.metrics(run.id), by=user)
        layers = {it.sensor_id: (it.layer, it.profile_id) for it in metrics}
        wanted: dict[Any, Any] = {made.sensor.id: (Layer.PHYSICAL, profile.id)}
        if role in readers.split():
            wanted[plain.sensor.id] = (Layer.RAW, None)
        assert layers == wanted

        raw_doors: list[Any] = [
            lambda work: work.telemetry.read(_query(session, made), layer=Layer.RAW),
            lambda work: work.telemetry.metrics(run.id, layer=Layer.RAW),
        ]
        for door in raw_doors:
            if role in readers.split():
                await lab.ask(door, by=user)
            else:
                with pytest.raises(Forbidden) as refusal:
                    await lab.ask(door, by=user)
                assert refusal.value.code == "raw_not_allowed"


async def test_no_event_and_no_record_tells_a_raw_value(lab: Laboratory):
    _, made, session = await _recording(lab)
    await lab.ingest(made, a_batch(a_column([1], [123.456789])))
    await lab.stop(session)
    await lab.ingest(made, a_batch(a_column([2], [987.654321]), session=session.id))
    text = repr(await lab.audit())
    assert "123.456789" not in text
    assert "987.654321" not in text


@pytest.mark.covers("telemetry.metrics")
async def test_metrics_of_chosen_signals_in_order(lab: Laboratory):
    run = await lab.run(start=True)
    sensors = [await lab.sensor(run) for _ in range(2)]
    await lab.profile(sensors[1], 2, 1)
    await lab.session(run)
    for sender in sensors:
        await lab.ingest(sender, a_batch(*(a_column([1, 2], [1.0, 3.0], signal) for signal in ("b", "a", "c"))))
    metrics = await lab.ask(lambda work: work.telemetry.metrics(run.id, signals=["a", "b"]))
    assert [(it.sensor_id, it.signal, str(it.layer)) for it in metrics] == [
        (sensors[0].sensor.id, "a", "raw"),
        (sensors[0].sensor.id, "b", "raw"),
        (sensors[1].sensor.id, "a", "physical"),
        (sensors[1].sensor.id, "b", "physical"),
    ]
    assert [it.statistics and it.statistics.mean for it in metrics] == [2.0, 2.0, 5.0, 5.0]


async def test_one_unit_of_work_takes_several_batches(lab: Laboratory):
    _, made, session = await _recording(lab)

    async def both(work: Work) -> list[Accepted]:
        return [await work.telemetry.ingest(a_batch(a_column([1, 2], [value, value]))) for value in (1.0, 2.0, 1.0)]

    answers = await lab.do(both, by=token_of(made))
    assert [answer.duplicate for answer in answers] == [False, False, True]
    assert _values(await _read(lab, session, made)) == {1: 2.0, 2: 2.0}


async def test_metrics_show_raw_recordings_beside_converted_ones(lab: Laboratory):
    run, made, first = await _recording(lab)
    await lab.ingest(made, a_batch(a_column([T0, T0 + 1], [1.0, 3.0]), session=first.id))
    await lab.stop(first)
    profile = await lab.profile(made, 2.0, 0.0)
    second = await lab.session(run)
    await lab.ingest(made, a_batch(a_column([T0 + 2], [5.0]), session=second.id))
    found = await lab.ask(lambda work: work.telemetry.metrics(run.id))
    told = {
        (metrics.layer, metrics.profile_id): (metrics.statistics.count, metrics.statistics.mean)
        for metrics in found
        if metrics.statistics
    }
    assert told == {(Layer.PHYSICAL, profile.id): (1, 10.0), (Layer.RAW, None): (2, 2.0)}


async def test_a_batch_sent_again_with_the_next_token_is_the_same(lab: Laboratory):
    _, made, session = await _recording(lab)
    await lab.ingest(made, a_batch(a_column([T0], [0.0]), session=session.id))
    rotated = await lab.do(lambda work: work.sensors.rotate_token(made.sensor.id, grace=60.0))
    for number in range(5):
        batch = a_batch(a_column([T0 + 1 + number], [1.0]), session=session.id)
        answers = await asyncio.gather(*(lab.ingest(token, batch) for token in (made, rotated) * 4))
        assert sorted(answer.duplicate for answer in answers) == [False] + [True] * 7


async def test_a_sensor_whose_clock_stands_still_is_read_to_the_end(lab: Laboratory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("experiment_adapters.postgres.telemetry.store.HEADERS", 5)
    _, made, session = await _recording(lab)
    for number in range(17):
        await lab.ingest(made, a_batch(a_column([T0, T0 + 1 + number], [float(number)] * 2), session=session.id))
    found: list[int] = []
    after: int | None = None
    while True:
        part = (await _read(lab, session, made, after=after, limit=4)).readings
        found += part.timestamps
        if not part.more:
            break
        after = part.timestamps[-1]
    assert found == [T0 + place for place in range(18)]


async def test_first_batches_with_their_signals_the_other_way_round(lab: Laboratory):
    for _ in range(5):
        _, made, session = await _recording(lab)
        await lab.ingest(made, a_batch(a_column([T0], [0.0], "known"), session=session.id))
        names = [f"s{number}" for number in range(40)]
        batches = [
            a_batch(*(a_column([T0 + place], [1.0], name) for name in order), session=session.id)
            for place, order in enumerate((names, names[::-1]))
        ]
        answers = await asyncio.gather(*(lab.ingest(made, batch) for batch in batches))
        assert [answer.accepted for answer in answers] == [40, 40]


@pytest.mark.covers("telemetry.grid")
async def test_the_columns_of_a_grid_stay_as_they_are_from_page_to_page(lab: Laboratory):
    _, made, session = await _recording(lab)
    await lab.ingest(made, a_batch(a_column([T0, T0 + 3], [1.0, 4.0]), session=session.id))
    question = GridQuestion(step=1, limit=2, layer=Layer.RAW)
    first = await lab.ask(lambda work: work.telemetry.grid(session.run_id, question))
    await lab.ingest(made, a_batch(a_column([T0], [7.0], "another"), session=session.id))
    question = evolve(question, after=first.following)
    second = await lab.ask(lambda work: work.telemetry.grid(session.run_id, question, columns=first.columns))
    assert [column.signal for column in second.columns] == ["value"]
    assert [values.tolist() for values in (*first.values, *second.values)] == [[1.0, 1.0], [1.0, 4.0]]
    assert second.following is None
    anew = await lab.ask(lambda work: work.telemetry.grid(session.run_id, question))
    assert [column.signal for column in anew.columns] == ["another", "value"]
    # Columns that somebody else was given are no way around the policy.
    with pytest.raises(Forbidden):
        await lab.ask(
            lambda work: work.telemetry.grid(session.run_id, GridQuestion(step=1), columns=first.columns), by=lab.viewer
        )
    other = await lab.run()
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.telemetry.grid(other.id, GridQuestion(step=1), columns=first.columns))
