"""Conversion profiles: versions, and the one of them that is published."""

from typing import Any

import pytest

from experiment_domain.conversions.rules import Linear, ProfileKind, ValidRange
from experiment_domain.kernel.errors import Conflict, Invalid
from laboratory import Laboratory


@pytest.mark.covers("conversions.draft")
async def test_versions_count_up_and_take_the_sensors_units(lab: Laboratory):
    made = await lab.sensor(input_unit="mV", display_unit="°C")
    first = await lab.profile(made, 2, 1, publish=False)
    second = await lab.profile(made, 2, 1, publish=False, output_unit="K", input_unit="", notes="n")
    assert [(it.profile_version, it.input_unit, it.output_unit) for it in (first, second)] == [
        (1, "mV", "°C"),
        (2, "", "K"),
    ]
    assert (first.rule, first.status) == (Linear(2.0, 1.0), "draft")
    page = await lab.ask(lambda work: work.conversions.page(made.sensor.id))
    assert list(page.items) == [second, first]


@pytest.mark.covers("conversions.publish")
async def test_publishing_a_version_retires_the_one_before(lab: Laboratory):
    made = await lab.sensor()
    first, second = await lab.profile(made, 2, 1), await lab.profile(made, 3, 1)
    assert (first.status, second.status) == ("published", "published")
    assert second.published_at == lab.clock.at
    assert (await lab.ask(lambda work: work.conversions.get(first.id))).status == "retired"
    assert [(it.source, it.target, it.reason) for it in await lab.history("conversion_profile", first.id)] == [
        ("draft", "published", None),
        ("published", "retired", "version 2 was published"),
    ]
    # Publishing again what is published retires nothing.
    assert await lab.do(lambda work: work.conversions.publish(second.id)) == second


@pytest.mark.covers("conversions.retire")
async def test_a_retired_version_is_not_published_again(lab: Laboratory):
    made = await lab.sensor()
    first = await lab.profile(made, 2, 1)
    await lab.do(lambda work: work.conversions.retire(first.id))
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.conversions.publish(first.id))
    assert refusal.value.code == "invalid_transition"


@pytest.mark.covers("conversions.edit", "conversions.publish")
async def test_a_published_profile_never_changes(lab: Laboratory):
    made = await lab.sensor()
    draft = await lab.profile(made, 2, 1, publish=False)
    edited = await lab.do(
        lambda work: work.conversions.edit(draft.id, parameters={"a": 4, "b": 0}, valid_range={"min": 0})
    )
    assert (edited.rule, edited.valid_range) == (Linear(4.0, 0.0), ValidRange(0.0, None))
    published = await lab.do(lambda work: work.conversions.publish(draft.id))
    edits: list[dict[str, Any]] = [{"notes": "n"}, {"parameters": {"a": 1, "b": 1}}, {"valid_range": None}]
    for values in edits:
        with pytest.raises(Conflict) as refusal:
            await lab.do(lambda work: work.conversions.edit(draft.id, **values))  # noqa: B023
        assert refusal.value.code == "not_draft"
    assert await lab.ask(lambda work: work.conversions.get(draft.id)) == published


async def test_a_bad_rule_is_refused_when_it_is_drafted(lab: Laboratory):
    made = await lab.sensor()
    with pytest.raises(Invalid) as refusal:
        await lab.do(
            lambda work: work.conversions.draft(
                made.sensor.id, kind=ProfileKind.TABLE, parameters={"points": [[1, 1], [1, 2]], "outside": "clamp"}
            )
        )
    assert refusal.value.errors[0]["path"] == "parameters.points[1][0]"
    assert list((await lab.ask(lambda work: work.conversions.page(made.sensor.id))).items) == []


async def test_a_retired_sensor_gets_no_more_versions(lab: Laboratory):
    made = await lab.sensor()
    await lab.do(lambda work: work.sensors.retire(made.sensor.id))
    with pytest.raises(Conflict) as refusal:
        await lab.profile(made, 1, 0)
    assert refusal.value.code == "sensor_retired"


async def test_a_preview_converts_without_a_trace(lab: Laboratory):
    made = await lab.sensor()
    draft = await lab.profile(made, 2, 1, publish=False, valid_range={"min": 0, "max": 10})
    audit = await lab.audit()
    profile, values = await lab.ask(
        lambda work: work.conversions.preview(draft.id, [-0.5, 0.0, 1.5, 10.0, 10.5]), by=lab.viewer
    )
    assert (profile, values) == (draft, [None, 1.0, 4.0, 21.0, None])
    assert await lab.audit() == audit
