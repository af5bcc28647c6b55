"""Every pair of statuses of every noun, through the library's door: listed ones happen once, others are refused."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from experiment_domain import Work
from experiment_domain.artifacts import ARTIFACT
from experiment_domain.captures import CAPTURE_SESSION, CaptureStatus
from experiment_domain.conversions.profiles import CONVERSION_PROFILE
from experiment_domain.experiments import EXPERIMENT
from experiment_domain.kernel.errors import Conflict
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.runs import RUN
from experiment_domain.sensors import SENSOR
from laboratory import Laboratory

Verb = Callable[[Work, UUID], Awaitable[Any]]


async def _an_experiment(lab: Laboratory) -> UUID:
    return (await lab.experiment()).id


async def _a_run(lab: Laboratory) -> UUID:
    return (await lab.run()).id


async def _a_session(lab: Laboratory) -> UUID:
    run = await lab.run(start=True)
    await lab.sensor(run)
    return (await lab.session(run, start=False)).id


async def _a_sensor(lab: Laboratory) -> UUID:
    return (await lab.sensor()).sensor.id


async def _a_profile(lab: Laboratory) -> UUID:
    return (await lab.profile(await lab.sensor(), 1, 0, publish=False)).id


async def _an_artifact(lab: Laboratory) -> UUID:
    return (await lab.artifact(await lab.run())).id


MACHINES: list[tuple[Lifecycle[Any], Callable[[Laboratory], Awaitable[UUID]], str, dict[str, Verb]]] = [
    (
        EXPERIMENT,
        _an_experiment,
        "experiments",
        {
            "running": lambda work, it: work.experiments.start(it, reason="why"),
            "finished": lambda work, it: work.experiments.finish(it, reason="why"),
            "failed": lambda work, it: work.experiments.fail(it, reason="why"),
            "archived": lambda work, it: work.experiments.archive(it, reason="why"),
        },
    ),
    (
        RUN,
        _a_run,
        "runs",
        {
            "running": lambda work, it: work.runs.start(it, reason="why"),
            "finished": lambda work, it: work.runs.finish(it, reason="why"),
            "failed": lambda work, it: work.runs.fail(it, reason="why"),
            "archived": lambda work, it: work.runs.archive(it, reason="why"),
        },
    ),
    (
        CAPTURE_SESSION,
        _a_session,
        "captures",
        {
            "running": lambda work, it: work.captures.start(it, reason="why"),
            "succeeded": lambda work, it: work.captures.stop(it, CaptureStatus.SUCCEEDED, reason="why"),
            "failed": lambda work, it: work.captures.stop(it, CaptureStatus.FAILED, reason="why"),
            "archived": lambda work, it: work.captures.archive(it, reason="why"),
        },
    ),
    (
        SENSOR,
        _a_sensor,
        "sensors",
        {
            "active": lambda work, it: work.sensors.activate(it, reason="why"),
            "inactive": lambda work, it: work.sensors.deactivate(it, reason="why"),
            "retired": lambda work, it: work.sensors.retire(it, reason="why"),
        },
    ),
    (
        CONVERSION_PROFILE,
        _a_profile,
        "conversions",
        {
            "published": lambda work, it: work.conversions.publish(it, reason="why"),
            "retired": lambda work, it: work.conversions.retire(it, reason="why"),
        },
    ),
    (
        ARTIFACT,
        _an_artifact,
        "artifacts",
        {
            "pending": lambda work, it: work.artifacts.resubmit(it, reason="why"),
            "approved": lambda work, it: work.artifacts.approve(it, reason="why"),
            "rejected": lambda work, it: work.artifacts.reject(it, reason="why"),
            "revoked": lambda work, it: work.artifacts.revoke(it, reason="why"),
        },
    ),
]


def _way_to(lifecycle: Lifecycle[Any], status: str) -> Sequence[str]:
    """The shortest way from the initial status."""
    ways: dict[str, list[str]] = {lifecycle.initial: []}
    queue = [lifecycle.initial]
    for source in queue:
        for target in lifecycle.allowed(source):
            if target not in ways:
                ways[target] = [*ways[source], target]
                queue.append(target)
    return ways[status]


CASES = [
    pytest.param(place, source, target, id=f"{lifecycle.noun}-{source}-{target}")
    for place, (lifecycle, _, _, verbs) in enumerate(MACHINES)
    for source in sorted(lifecycle.table.keys() | {target for _, target in lifecycle.steps()})
    for target in verbs
]


@pytest.mark.parametrize(("place", "source", "target"), CASES)
async def test_listed_transitions_happen_once_and_others_never(lab: Laboratory, place: int, source: str, target: str):
    lifecycle, make, door, verbs = MACHINES[place]
    entity_id = await make(lab)
    for status in _way_to(lifecycle, source):
        await lab.do(lambda work: verbs[status](work, entity_id))  # noqa: B023
    lab.clock.pass_by(60)
    before = await lab.ask(lambda work: getattr(work, door).get(entity_id))
    assert before.status == source
    history, audit = await lab.history(lifecycle.noun, entity_id), await lab.audit()

    if source != target and target not in lifecycle.allowed(before.status):
        with pytest.raises(Conflict) as refusal:
            await lab.do(lambda work: verbs[target](work, entity_id))
        assert refusal.value.code == "invalid_transition"
        assert refusal.value.facts["allowed"] == list(lifecycle.allowed(before.status))
    else:
        answered = await lab.do(lambda work: verbs[target](work, entity_id))
        assert answered == await lab.ask(lambda work: getattr(work, door).get(entity_id))
        assert answered.status == target

    after = await lab.ask(lambda work: getattr(work, door).get(entity_id))
    new = (await lab.history(lifecycle.noun, entity_id))[len(history) :]
    if before.status == after.status:
        assert after == before
        assert new == []
        assert await lab.audit() == audit
        return
    assert after.version == before.version + 1
    assert after.updated_at == lab.clock.at
    (step,) = new
    assert (step.source, step.target) == (source, target)
    assert (step.entity_type, step.entity_id, step.project_id) == (lifecycle.noun, entity_id, lab.project.id)
    assert (step.at, step.actor, step.role, step.reason) == (lab.clock.at, lab.owner.id, "owner", "why")
    told = [record for record in (await lab.audit())[len(audit) :] if record.target_id == str(entity_id)]
    (record,) = told
    assert (record.target_type, record.actor, record.role) == (lifecycle.noun, lab.owner.id, "owner")
    assert record.before is not None
    assert record.after is not None
    assert (record.before["status"], record.after["status"]) == (source, target)
    assert (record.before["version"], record.after["version"]) == (before.version, after.version)
    assert await lab.ask(lambda work: getattr(work, door).history(entity_id)) == [*history, step]
