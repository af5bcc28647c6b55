"""Who may use which use case: every one of them, as owner, editor, viewer, outsider and sensor."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from attrs import define

from entities import a_batch, a_column, fresh
from experiment_domain import Services, Work
from experiment_domain.artifacts import Artifact, ArtifactStatus
from experiment_domain.backfills import Backfill
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.conversions.rules import ProfileKind
from experiment_domain.experiments import Experiment, ExperimentFilter
from experiment_domain.exports.jobs import Export, FileFormat
from experiment_domain.exports.scopes import ExportScope
from experiment_domain.kernel.access import GRANTS, Integration, Permission, Role, SensorToken, System, User
from experiment_domain.kernel.errors import Forbidden, NotFound, Refusal, Unauthenticated
from experiment_domain.runs import Run, RunFilter
from experiment_domain.scalars import Logged
from experiment_domain.sensors import SensorFilter, new_token, token_hash
from experiment_domain.telemetry.envelopes import EnvelopeQuery
from experiment_domain.telemetry.grids import GridQuestion
from experiment_domain.telemetry.store import Layer, ReadingQuery
from experiment_domain.usecases.export_walks import Reading
from experiment_domain.usecases.sensors import SensorWithToken
from experiment_domain.usecases.webhook_deliveries import Dispatch
from experiment_domain.webhooks.deliveries import WebhookDelivery
from experiment_domain.webhooks.sending import Outcome
from experiment_domain.webhooks.subscriptions import WebhookSubscription
from laboratory import Laboratory, a_user, token_of


@define
class Things:
    """One of each noun in a project."""

    lab: Laboratory
    experiment: Experiment
    run: Run
    session: CaptureSession
    sensor: SensorWithToken
    profile: ConversionProfile
    artifact: Artifact
    earlier: CaptureSession
    backfill: Backfill
    webhook: WebhookSubscription
    delivery: WebhookDelivery
    export: Export

    @classmethod
    async def make(cls, lab: Laboratory) -> "Things":
        run = await lab.run(start=True)
        sensor = await lab.sensor(run)
        earlier = await lab.stop(await lab.session(run))
        published = await lab.profile(sensor, 3, 0)
        profile = await lab.profile(sensor, 2, 1, publish=False)
        names = {"profile_id": published.id, "sensor_id": sensor.sensor.id}
        backfill = (await lab.do(lambda work: work.backfills.request(earlier.id, **names))).backfill
        session = await lab.session(run)
        experiment = await lab.ask(lambda work: work.experiments.get(run.experiment_id))
        artifact = await lab.artifact(run)
        webhook = (await lab.webhook()).subscription
        delivery = await lab.do(lambda work: work.webhook_deliveries.test(webhook.id))
        export = await lab.do(lambda work: work.exports.request(**_wanted(lab)), by=lab.viewer)
        return cls(
            lab, experiment, run, session, sensor, profile, artifact, earlier, backfill, webhook, delivery, export
        )

    def readings(self) -> ReadingQuery:
        return ReadingQuery(**self._series(), limit=1)

    def envelope(self) -> EnvelopeQuery:
        return EnvelopeQuery(**self._series(), points=1)

    def _series(self) -> dict[str, Any]:
        return {
            "capture_session_id": self.session.id,
            "sensor_id": self.sensor.sensor.id,
            "signal": "value",
            "layer": Layer.PHYSICAL,
        }


def _wanted(lab: Laboratory) -> dict[str, Any]:
    """What there is to export in a laboratory."""
    return {
        "project_id": lab.project.id,
        "scope": ExportScope(),
        "format": FileFormat.CSV,
        "layer": Layer.PHYSICAL,
    }


Use = Callable[[Work, Things], Awaitable[Any]]
NEW = {"name": "N", "sensor_type": "T", "input_unit": "V", "display_unit": "K"}
USE_CASES: dict[str, Use] = {
    "projects.get": lambda work, it: work.projects.get(it.lab.project.id),
    "projects.members": lambda work, it: work.projects.members(it.lab.project.id),
    "projects.edit": lambda work, it: work.projects.edit(it.lab.project.id, name="B"),
    "projects.put_member": lambda work, it: work.projects.put_member(it.lab.project.id, "zoe", Role.VIEWER),
    "projects.remove_member": lambda work, it: work.projects.remove_member(it.lab.project.id, it.lab.viewer.id),
    "experiments.create": lambda work, it: work.experiments.create(project_id=it.lab.project.id, name="B"),
    "experiments.get": lambda work, it: work.experiments.get(it.experiment.id),
    "experiments.edit": lambda work, it: work.experiments.edit(it.experiment.id, name="B"),
    "experiments.delete": lambda work, it: work.experiments.delete(it.experiment.id),
    "experiments.start": lambda work, it: work.experiments.start(it.experiment.id),
    "experiments.finish": lambda work, it: work.experiments.finish(it.experiment.id),
    "experiments.fail": lambda work, it: work.experiments.fail(it.experiment.id),
    "experiments.archive": lambda work, it: work.experiments.archive(it.experiment.id),
    "experiments.history": lambda work, it: work.experiments.history(it.experiment.id),
    "runs.create": lambda work, it: work.runs.create(it.experiment.id, name="B"),
    "runs.get": lambda work, it: work.runs.get(it.run.id),
    "runs.page_of_experiment": lambda work, it: work.runs.page_of_experiment(
        it.experiment.id, RunFilter(project_ids=())
    ),
    "runs.edit": lambda work, it: work.runs.edit(it.run.id, name="B"),
    "runs.delete": lambda work, it: work.runs.delete(it.run.id),
    "runs.start": lambda work, it: work.runs.start(it.run.id),
    "runs.finish": lambda work, it: work.runs.finish(it.run.id),
    "runs.fail": lambda work, it: work.runs.fail(it.run.id),
    "runs.archive": lambda work, it: work.runs.archive(it.run.id),
    "runs.heartbeat": lambda work, it: work.runs.heartbeat(it.run.id),
    "runs.history": lambda work, it: work.runs.history(it.run.id),
    "runs.sensors": lambda work, it: work.runs.sensors(it.run.id),
    "runs.bind": lambda work, it: work.runs.bind(it.run.id, it.sensor.sensor.id),
    "runs.unbind": lambda work, it: work.runs.unbind(it.run.id, it.sensor.sensor.id),
    "cards.of_run": lambda work, it: work.cards.of_run(it.run.id),
    "captures.create": lambda work, it: work.captures.create(it.run.id),
    "captures.get": lambda work, it: work.captures.get(it.session.id),
    "captures.page": lambda work, it: work.captures.page(it.run.id),
    "captures.start": lambda work, it: work.captures.start(it.session.id),
    "captures.stop": lambda work, it: work.captures.stop(it.session.id, CaptureStatus.FAILED),
    "captures.archive": lambda work, it: work.captures.archive(it.session.id),
    "captures.delete": lambda work, it: work.captures.delete(it.session.id),
    "captures.restore": lambda work, it: work.captures.restore(it.session.id),
    "captures.history": lambda work, it: work.captures.history(it.session.id),
    "captures.events": lambda work, it: work.captures.events(it.session.id),
    "artifacts.register": lambda work, it: work.artifacts.register(it.run.id, name="B", uri="s3://b/k"),
    "artifacts.get": lambda work, it: work.artifacts.get(it.artifact.id),
    "artifacts.page": lambda work, it: work.artifacts.page(it.run.id),
    "artifacts.approve": lambda work, it: work.artifacts.approve(it.artifact.id),
    "artifacts.reject": lambda work, it: work.artifacts.reject(it.artifact.id),
    "artifacts.revoke": lambda work, it: work.artifacts.revoke(it.artifact.id),
    "artifacts.resubmit": lambda work, it: work.artifacts.resubmit(it.artifact.id),
    "artifacts.report": lambda work, it: work.artifacts.report(it.artifact.id, ArtifactStatus.APPROVED),
    "artifacts.history": lambda work, it: work.artifacts.history(it.artifact.id),
    "webhooks.create": lambda work, it: work.webhooks.create(
        project_id=it.lab.project.id, url="https://hooks.example/", event_types=["*"]
    ),
    "webhooks.get": lambda work, it: work.webhooks.get(it.webhook.id),
    "webhooks.edit": lambda work, it: work.webhooks.edit(it.webhook.id, description="B"),
    "webhooks.delete": lambda work, it: work.webhooks.delete(it.webhook.id),
    "webhooks.pause": lambda work, it: work.webhooks.pause(it.webhook.id),
    "webhooks.resume": lambda work, it: work.webhooks.resume(it.webhook.id),
    "webhooks.rotate_secret": lambda work, it: work.webhooks.rotate_secret(it.webhook.id),
    "webhooks.history": lambda work, it: work.webhooks.history(it.webhook.id),
    "webhook_deliveries.test": lambda work, it: work.webhook_deliveries.test(it.webhook.id),
    "webhook_deliveries.get": lambda work, it: work.webhook_deliveries.get(it.delivery.id),
    "webhook_deliveries.page": lambda work, it: work.webhook_deliveries.page(it.webhook.id),
    "webhook_deliveries.attempts": lambda work, it: work.webhook_deliveries.attempts(it.delivery.id),
    "webhook_deliveries.history": lambda work, it: work.webhook_deliveries.history(it.delivery.id),
    "webhook_deliveries.redeliver": lambda work, it: work.webhook_deliveries.redeliver(it.delivery.id),
    "webhook_deliveries.redeliver_dead": lambda work, it: work.webhook_deliveries.redeliver_dead(
        it.webhook.id, since=it.delivery.created_at
    ),
    "sensors.register": lambda work, it: work.sensors.register(project_id=it.lab.project.id, **NEW),
    "sensors.get": lambda work, it: work.sensors.get(it.sensor.sensor.id),
    "sensors.edit": lambda work, it: work.sensors.edit(it.sensor.sensor.id, name="B"),
    "sensors.delete": lambda work, it: work.sensors.delete(it.sensor.sensor.id),
    "sensors.rotate_token": lambda work, it: work.sensors.rotate_token(it.sensor.sensor.id),
    "sensors.activate": lambda work, it: work.sensors.activate(it.sensor.sensor.id),
    "sensors.deactivate": lambda work, it: work.sensors.deactivate(it.sensor.sensor.id),
    "sensors.retire": lambda work, it: work.sensors.retire(it.sensor.sensor.id),
    "sensors.history": lambda work, it: work.sensors.history(it.sensor.sensor.id),
    "sensors.heartbeat": lambda work, it: work.sensors.heartbeat(it.sensor.sensor.id),
    "sensors.heartbeats": lambda work, it: work.sensors.heartbeats(it.sensor.sensor.id),
    "sensors.projects": lambda work, it: work.sensors.projects(it.sensor.sensor.id),
    "sensors.share": lambda work, it: work.sensors.share(it.sensor.sensor.id, it.lab.project.id),
    "sensors.unshare": lambda work, it: work.sensors.unshare(it.sensor.sensor.id, fresh()),
    "conversions.draft": lambda work, it: work.conversions.draft(
        it.sensor.sensor.id, kind=ProfileKind.IDENTITY, parameters={}
    ),
    "conversions.get": lambda work, it: work.conversions.get(it.profile.id),
    "conversions.page": lambda work, it: work.conversions.page(it.sensor.sensor.id),
    "conversions.edit": lambda work, it: work.conversions.edit(it.profile.id, notes="B"),
    "conversions.publish": lambda work, it: work.conversions.publish(it.profile.id),
    "conversions.retire": lambda work, it: work.conversions.retire(it.profile.id),
    "conversions.preview": lambda work, it: work.conversions.preview(it.profile.id, [1.0]),
    "conversions.history": lambda work, it: work.conversions.history(it.profile.id),
    "telemetry.ingest": lambda work, _: work.telemetry.ingest(a_batch(a_column([0], [1.0]))),
    "telemetry.series": lambda work, it: work.telemetry.series(it.session.id),
    "telemetry.names": lambda work, it: work.telemetry.names(it.session.id),
    "telemetry.read": lambda work, it: work.telemetry.read(it.readings(), layer=None),
    "telemetry.metrics": lambda work, it: work.telemetry.metrics(it.run.id),
    "telemetry.ingest_all": lambda work, _: _only(work.telemetry.ingest_all([a_batch(a_column([0], [1.0]))])),
    "telemetry.ingest_waiting": lambda work, _: _only(work.telemetry.ingest_waiting([a_batch(a_column([0], [1.0]))])),
    "telemetry.envelope": lambda work, it: work.telemetry.envelope(it.envelope(), layer=None),
    "telemetry.grid": lambda work, it: work.telemetry.grid(it.run.id, GridQuestion(step=1_000_000)),
    "scalars.log": lambda work, it: work.scalars.log(it.run.id, [Logged(name="rmse", value=0.5)]),
    "scalars.history": lambda work, it: work.scalars.history(it.run.id, ["rmse"]),
    "scalars.latest": lambda work, it: work.scalars.latest(it.run.id),
    "comparisons.of_runs": lambda work, it: work.comparisons.of_runs([it.run.id, fresh()]),
    "live.watch": lambda work, it: work.live.watch(it.session.id, layer=None),
    "backfills.request": lambda work, it: work.backfills.request(
        it.earlier.id, profile_id=it.backfill.profile_id, sensor_id=it.sensor.sensor.id
    ),
    "backfills.get": lambda work, it: work.backfills.get(it.backfill.id),
    "backfills.page": lambda work, it: work.backfills.page(it.earlier.id),
    "backfills.cancel": lambda work, it: work.backfills.cancel(it.backfill.id),
    "backfills.retry": lambda work, it: work.backfills.retry(it.backfill.id),
    "backfills.history": lambda work, it: work.backfills.history(it.backfill.id),
    "exports.request": lambda work, it: work.exports.request(**_wanted(it.lab)),
    "exports.get": lambda work, it: work.exports.get(it.export.id),
    "exports.cancel": lambda work, it: work.exports.cancel(it.export.id),
    "exports.history": lambda work, it: work.exports.history(it.export.id),
    "exports.download": lambda work, it: work.exports.download(it.export.id),
    "exports.check_download": lambda work, it: work.exports.check_download(it.export.id),
    "exports.read": lambda work, it: work.exports.read(it.export, readings=1, is_over=lambda: False),
}
# These answer with what the caller may see, be it nothing.
LISTS: dict[str, Callable[[Work], Awaitable[Any]]] = {
    "projects.page": lambda work: work.projects.page(limit=500),
    "experiments.page": lambda work: work.experiments.page(ExperimentFilter(project_ids=()), limit=500),
    "runs.page": lambda work: work.runs.page(RunFilter(project_ids=()), limit=500),
    "sensors.page": lambda work: work.sensors.page(SensorFilter(project_ids=()), limit=500),
    "exports.page": lambda work: work.exports.page(limit=500),
}

NOTHING_READ = Reading(stretches=(), sessions_done=0, place=None)
# These are for the service alone.
WORK: dict[str, Use] = {
    "telemetry.ingest_at_once": lambda work, _: work.telemetry.ingest_at_once([]),
    "runs.hung": lambda work, _: work.runs.hung(),
    "runs.warn_silent": lambda work, _: work.runs.warn_silent(),
    "runs.time_out": lambda work, it: work.runs.time_out(it.run.id),
    "captures.left_running": lambda work, _: work.captures.left_running(),
    "captures.close_left": lambda work, it: work.captures.close_left(it.session.id),
    "sensors.look": lambda work, _: work.sensors.look(),
    "events.latest": lambda work, _: work.events.latest(),
    "events.since": lambda work, _: _since(work.events.latest(), work.events.since),
    "live.latest": lambda work, it: work.live.latest(it.session.id),
    "live.since": lambda work, it: _since(
        work.live.latest(it.session.id), lambda place: work.live.since(it.session.id, place, layer=None)
    ),
    "backfills.claim": lambda work, _: work.backfills.claim(fresh()),
    "backfills.step": lambda work, it: work.backfills.step(it.backfill, fresh()),
    "backfills.stumble": lambda work, it: work.backfills.stumble(it.backfill.id, fresh(), "it failed"),
    "backfills.leave": lambda work, it: work.backfills.leave(it.backfill.id, fresh()),
    "exports.claim": lambda work, _: work.exports.claim(fresh()),
    "exports.plan": lambda work, it: work.exports.plan(it.export.id, fresh()),
    "exports.advance": lambda work, it: work.exports.advance(it.export.id, fresh(), NOTHING_READ, None),
    "exports.notes": lambda work, it: work.exports.notes(it.export.id),
    "exports.finish": lambda work, it: work.exports.finish(it.export.id, fresh(), None),
    "exports.fail": lambda work, it: work.exports.fail(it.export.id, fresh(), "it failed"),
    "exports.stumble": lambda work, it: work.exports.stumble(it.export.id, fresh(), "it failed"),
    "exports.leave": lambda work, it: work.exports.leave(it.export.id, fresh()),
    "exports.expire": lambda work, _: work.exports.expire(),
    "exports.untidy": lambda work, _: work.exports.untidy(),
    "exports.tidied": lambda work, it: work.exports.tidied(it.export),
    "webhook_deliveries.fan_out": lambda work, _: work.webhook_deliveries.fan_out(),
    "webhook_deliveries.claim": lambda work, _: work.webhook_deliveries.claim(fresh(), most=1),
    "webhook_deliveries.conclude": lambda work, it: work.webhook_deliveries.conclude(
        fresh(), [(Dispatch(delivery=it.delivery, subscription=it.webhook), Outcome(status_code=200))]
    ),
    "webhook_deliveries.bury": lambda work, _: work.webhook_deliveries.bury(),
    "webhook_deliveries.forget": lambda work, _: work.webhook_deliveries.forget(),
}
# These say of each run, or of each project that is named, whether the caller may.
ONE_BY_ONE = {
    "events.page",
    "events.watch",
    "runs.set_statuses",
    "runs.tag",
    "audit.page",
    "audit.verify",
    "webhooks.page",
}


async def _only(outcomes: Awaitable[Sequence[Any]]) -> Any:
    (outcome,) = await outcomes
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


async def _since(place: Awaitable[str], read: Callable[[str], Awaitable[Any]]) -> Any:
    return await read(await place)


def _permission(name: str) -> Permission:
    noun, verb = name.split(".")
    door: Any = vars(Work)[noun].func.__annotations__["return"]
    return getattr(door, verb).permission


def test_the_table_knows_every_use_case():
    every = {
        f"{noun}.{verb}"
        for noun, member in vars(Work).items()
        if hasattr(member, "func")
        for verb, use_case in vars(member.func.__annotations__["return"]).items()
        if hasattr(use_case, "permission")
    }
    own = {"projects.create", "sensors.status_summary", "telemetry.check_sender"}  # about the caller's own things
    assert every == {*USE_CASES, *LISTS, *WORK, *ONE_BY_ONE, *own}


async def _refusal(lab: Laboratory, use: Callable[[Work], Awaitable[Any]], by: Any) -> Refusal | None:
    try:
        await lab.do(use, by=by)
    except Refusal as refusal:
        return refusal
    return None


@pytest.mark.parametrize("name", USE_CASES)
async def test_a_use_case_is_for_whom_the_table_says(lab: Laboratory, name: str):
    things, permission = await Things.make(lab), _permission(name)
    people = {Role.VIEWER: lab.viewer, Role.EDITOR: lab.editor, Role.OWNER: lab.owner}
    before = await lab.audit()

    # From the least to the most, so that nobody finds what somebody before did away with.
    foreign = await Laboratory.open(lab.units)
    stranger = await foreign.sensor()
    for nobody in (lab.outsider, foreign.owner, token_of(stranger)):
        refusal = await _refusal(lab, lambda work: USE_CASES[name](work, things), nobody)
        if permission is Permission.INGEST:
            assert isinstance(refusal, Refusal)
        else:
            assert isinstance(refusal, NotFound), refusal
    own_token = await _refusal(lab, lambda work: USE_CASES[name](work, things), token_of(things.sensor))
    if permission is Permission.INGEST:
        assert own_token is None
    else:
        assert isinstance(own_token, NotFound), own_token
        assert await lab.audit() == before
    service = await _refusal(lab, lambda work: USE_CASES[name](work, things), Integration(name="artifact-service"))
    if permission is Permission.REPORT:
        assert service is None
    else:
        assert isinstance(service, Forbidden if permission is Permission.INGEST else NotFound), service
    for role, user in people.items():
        refusal = await _refusal(lab, lambda work: USE_CASES[name](work, things), user)
        if role not in GRANTS[permission]:
            assert isinstance(refusal, Forbidden), refusal
        else:
            # What state things are in may stand against it, but not who asks.
            assert not isinstance(refusal, Forbidden | Unauthenticated), refusal


@pytest.mark.parametrize("name", WORK)
async def test_what_the_service_does_by_itself_nobody_else_can(lab: Laboratory, name: str):
    things = await Things.make(lab)
    assert _permission(name) is Permission.WORK
    for somebody in (lab.owner, lab.editor, lab.viewer, lab.outsider, token_of(things.sensor), Integration(name="a")):
        assert isinstance(await _refusal(lab, lambda work: WORK[name](work, things), somebody), Forbidden)
    assert await _refusal(lab, lambda work: WORK[name](work, things), System()) is None


@pytest.mark.parametrize("name", LISTS)
async def test_lists_hold_what_the_caller_may_see(lab: Laboratory, name: str):
    await Things.make(lab)
    foreign = await Things.make(await Laboratory.open(lab.units))
    for user in (lab.viewer, lab.editor, lab.owner):
        page = await lab.ask(LISTS[name], by=user)
        assert {found.project_id for found in page.items} == {lab.project.id}
    assert list((await lab.ask(LISTS[name], by=lab.outsider)).items) == []
    for machine in (token_of(foreign.sensor), Integration(name="artifact-service")):
        with pytest.raises(Forbidden):
            await lab.ask(LISTS[name], by=machine)


@pytest.mark.parametrize("name", sorted(USE_CASES.keys() - {"telemetry.ingest", "sensors.heartbeat"}))
async def test_a_token_that_no_sensor_has_is_nobody(lab: Laboratory, name: str):
    things = await Things.make(lab)
    with pytest.raises((Unauthenticated, NotFound)):
        await lab.do(lambda work: USE_CASES[name](work, things), by=SensorToken(token_hash=token_hash(new_token())))


@pytest.mark.parametrize("name", ["telemetry.ingest", "sensors.heartbeat"])
async def test_a_token_that_no_sensor_has_delivers_nothing(lab: Laboratory, name: str):
    things = await Things.make(lab)
    with pytest.raises(Unauthenticated):
        await lab.do(lambda work: USE_CASES[name](work, things), by=SensorToken(token_hash=token_hash(new_token())))


async def test_lists_name_projects_only_within_what_the_caller_may_see(lab: Laboratory):
    foreign = await Laboratory.open(lab.units)
    await lab.run()
    await foreign.run()
    which = RunFilter(project_ids={foreign.project.id, lab.project.id})
    page = await lab.ask(lambda work: work.runs.page(which))
    assert {run.project_id for run in page.items} == {lab.project.id}
    page = await lab.ask(lambda work: work.runs.page(RunFilter(project_ids={foreign.project.id})))
    assert list(page.items) == []


async def test_a_claim_in_the_token_counts_like_a_membership(lab: Laboratory):
    run = await lab.run()
    claimed = User(id=f"claimed-{fresh()}", projects={lab.project.id: Role.EDITOR})
    assert (await lab.do(lambda work: work.runs.edit(run.id, notes="n"), by=claimed)).notes == "n"
    # The higher of the two: a membership takes nothing from a claim.
    await lab.do(lambda work: work.projects.put_member(lab.project.id, claimed.id, Role.VIEWER))
    await lab.do(lambda work: work.runs.edit(run.id, notes="m"), by=claimed)
    record = (await lab.audit())[-1]
    assert (record.actor, record.role) == (claimed.id, "editor")


async def test_what_is_not_there_and_what_may_not_be_known_of_answer_alike(lab: Laboratory):
    run = await lab.run()
    hidden = await _refusal(lab, lambda work: work.runs.get(run.id), lab.outsider)
    missing = await _refusal(lab, lambda work: work.runs.get(fresh()), lab.outsider)
    stale = await _refusal(lab, lambda work: work.runs.edit(run.id, if_version=99, name="B"), lab.outsider)
    assert hidden is not None
    assert missing is not None
    assert stale is not None
    assert (hidden.code, hidden.detail) == (missing.code, missing.detail) == (stale.code, stale.detail)


async def test_the_service_itself_may_do_everything_but_own_a_project(lab: Laboratory):
    run = await lab.run()
    edited = await lab.do(lambda work: work.runs.edit(run.id, notes="closed by the service"), by=System())
    assert edited.version == 2
    assert (await lab.audit())[-1].actor == "system"
    with pytest.raises(Forbidden):
        await lab.do(lambda work: work.projects.create(name="P"), by=System())


async def test_a_new_user_sees_nothing_of_others(lab: Laboratory):
    services: Services = lab.services
    newcomer = a_user("newcomer")
    async with services.read(newcomer) as work:
        assert list((await work.projects.page(limit=500)).items) == []
    async with services.begin(newcomer) as work:
        own = await work.projects.create(name="Own")
        # The role is there within the unit of work that gave it.
        await work.experiments.create(project_id=own.id, name="E")
    async with services.read(newcomer) as work:
        assert list((await work.projects.page(limit=500)).items) == [own]
