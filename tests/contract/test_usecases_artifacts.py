"""What the use cases of artifacts do, whatever keeps them."""

import asyncio
from typing import Any

import pytest

from experiment_domain.artifacts import ArtifactStatus
from experiment_domain.kernel.access import Integration, Role
from experiment_domain.kernel.errors import Conflict, Invalid, NotFound, Refusal, VersionMismatch
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ask
from laboratory import Laboratory

PENDING, APPROVED, REJECTED, REVOKED = ArtifactStatus
SERVICE = Integration(name="artifact-service")


@pytest.mark.covers("artifacts.register")
async def test_registering_is_recorded(lab: Laboratory):
    run = await lab.run()
    values: dict[str, Any] = {"name": "M", "uri": "s3://b/k", "kind": "model", "checksum": "sha256:aa", "size": 7}
    artifact = await lab.do(lambda work: work.artifacts.register(run.id, metadata={"a": 1}, **values), by=lab.editor)
    assert (artifact.run_id, artifact.project_id, artifact.status) == (run.id, lab.project.id, PENDING)
    assert artifact == await lab.ask(lambda work: work.artifacts.get(artifact.id), by=lab.viewer)
    record = (await lab.audit())[-1]
    assert (record.action, record.target_type, record.target_id) == ("create", "artifact", str(artifact.id))
    assert record.after is not None
    assert {name: record.after[name] for name in values} == values
    assert await lab.history("artifact", artifact.id) == []


@pytest.mark.covers("artifacts.approve", "artifacts.revoke", "artifacts.reject", "artifacts.resubmit")
async def test_an_archived_run_takes_none_but_statuses_still_move(lab: Laboratory):
    run = await lab.run()
    artifacts = [await lab.artifact(run, name=name) for name in ("A", "B")]
    await lab.do(lambda work: work.runs.archive(run.id))
    with pytest.raises(Conflict) as refusal:
        await lab.artifact(run)
    assert refusal.value.code == "archived"
    await lab.do(lambda work: work.artifacts.approve(artifacts[0].id))
    revoked = await lab.do(lambda work: work.artifacts.revoke(artifacts[0].id, reason="leaked"))
    assert revoked.status is REVOKED
    await lab.do(lambda work: work.artifacts.reject(artifacts[1].id))
    assert (await lab.do(lambda work: work.artifacts.resubmit(artifacts[1].id))).status is PENDING


async def test_a_draft_with_artifacts_is_not_deleted(lab: Laboratory):
    run = await lab.run()
    artifact = await lab.artifact(run)
    await lab.do(lambda work: work.artifacts.reject(artifact.id))
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.runs.delete(run.id))
    assert refusal.value.code == "has_artifacts"
    assert await lab.ask(lambda work: work.runs.get(run.id)) == run


@pytest.mark.parametrize(
    ("approved", "statuses", "found"),
    [
        (None, (), "drvp"),
        (True, (), "p"),
        (False, (), "drv"),
        (True, [APPROVED, PENDING], "p"),
        (False, [APPROVED, PENDING], "d"),
        (True, [PENDING], ""),
        (False, [APPROVED], ""),
        (None, [REJECTED, REVOKED], "rv"),
    ],
)
@pytest.mark.covers("artifacts.approve", "artifacts.reject", "artifacts.revoke")
async def test_lists_of_what_is_approved_and_of_what_is_not(
    lab: Laboratory, approved: bool | None, statuses: Any, found: str
):
    run = await lab.run()
    for name in "drvp":  # pending, rejected, revoked, approved
        lab.clock.pass_by(1)
        artifact = await lab.artifact(run, name=name)
        if name == "r":
            await lab.do(lambda work: work.artifacts.reject(artifact.id))  # noqa: B023
        if name in "vp":
            await lab.do(lambda work: work.artifacts.approve(artifact.id))  # noqa: B023
        if name == "v":
            await lab.do(lambda work: work.artifacts.revoke(artifact.id))  # noqa: B023
    page = await lab.ask(lambda work: work.artifacts.page(run.id, approved=approved, statuses=statuses))
    assert "".join(artifact.name for artifact in reversed(page.items)) == found
    shown = await ask(lab.units, lambda uow: uow.artifacts.approved_of(run.id, 10))
    assert [artifact.name for artifact in shown] == ["p"]


@pytest.mark.covers("artifacts.approve")
async def test_a_stale_version_is_refused(lab: Laboratory):
    artifact = await lab.artifact(await lab.run())
    with pytest.raises(VersionMismatch):
        await lab.do(lambda work: work.artifacts.approve(artifact.id, if_version=2))
    approved = await lab.do(lambda work: work.artifacts.approve(artifact.id, if_version=1))
    assert (approved.version, approved.status) == (2, APPROVED)


@pytest.mark.covers("artifacts.report")
async def test_what_the_service_reports_is_recorded_as_its_own(lab: Laboratory):
    artifact = await lab.artifact(await lab.run(), checksum="sha256:aa", size=7)
    report: dict[str, Any] = {"reason": "scanned", "checksum": "sha256:AA", "size": 7}
    told = await lab.do(lambda work: work.artifacts.report(artifact.id, APPROVED, **report), by=SERVICE)
    assert (told.status, told.version, told.checksum) == (APPROVED, 2, "sha256:aa")
    (step,) = await lab.history("artifact", artifact.id)
    assert (step.actor, step.role, step.reason) == ("integration:artifact-service", Role.INTEGRATION, "scanned")
    record = (await lab.audit())[-1]
    assert (record.action, record.actor, record.role) == ("approve", "integration:artifact-service", "integration")
    # A second time it is so already.
    assert await lab.do(lambda work: work.artifacts.report(artifact.id, APPROVED, **report), by=SERVICE) == told
    revoked = await lab.do(lambda work: work.artifacts.report(artifact.id, REVOKED), by=SERVICE)
    assert (revoked.status, revoked.version) == (REVOKED, 3)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"checksum": "sha256:ab"}, "checksum_mismatch"),
        ({"checksum": "md5:aa"}, "checksum_mismatch"),
        ({"checksum": "sha256:aa", "size": 8}, "size_mismatch"),
        ({"size": 0}, "size_mismatch"),
    ],
)
@pytest.mark.covers("artifacts.report")
async def test_something_else_than_was_registered_is_not_approved(lab: Laboratory, found: Any, code: str):
    artifact = await lab.artifact(await lab.run(), checksum="sha256:aa", size=7)
    with pytest.raises(Conflict) as refusal:
        await lab.do(lambda work: work.artifacts.report(artifact.id, APPROVED, **found), by=SERVICE)
    assert refusal.value.code == code
    # It may be the very reason to reject it.
    told = await lab.do(lambda work: work.artifacts.report(artifact.id, REJECTED, **found), by=SERVICE)
    assert (told.status, told.checksum, told.size) == (REJECTED, "sha256:aa", 7)


async def test_what_was_not_registered_is_not_compared_and_not_filled_in(lab: Laboratory):
    artifact = await lab.artifact(await lab.run())
    told = await lab.do(
        lambda work: work.artifacts.report(artifact.id, APPROVED, checksum="sha256:aa", size=7), by=SERVICE
    )
    assert (told.status, told.checksum, told.size) == (APPROVED, None, None)


@pytest.mark.parametrize(("name", "value"), [("checksum", "a b"), ("checksum", ""), ("size", -1), ("size", 2**63)])
async def test_a_bad_report_is_refused(lab: Laboratory, name: str, value: Any):
    artifact = await lab.artifact(await lab.run())
    with pytest.raises(Invalid):
        await lab.do(lambda work: work.artifacts.report(artifact.id, REJECTED, **{name: value}), by=SERVICE)
    assert await lab.ask(lambda work: work.artifacts.get(artifact.id)) == artifact


async def test_the_service_finds_what_it_reports_of_and_nothing_else(lab: Laboratory):
    run = await lab.run()
    artifact = await lab.artifact(run)
    for use in (
        lambda work: work.artifacts.get(artifact.id),
        lambda work: work.artifacts.approve(artifact.id),
        lambda work: work.artifacts.history(artifact.id),
        lambda work: work.runs.get(run.id),
        lambda work: work.artifacts.report(run.id, APPROVED),
    ):
        with pytest.raises(NotFound):
            await lab.do(use, by=SERVICE)


@pytest.mark.postgres
@pytest.mark.covers("runs.archive")
async def test_a_run_is_not_archived_or_deleted_while_an_artifact_comes(
    runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork
):
    lab = await Laboratory.open(postgres_units_of_work)
    for end in ("archive", "delete"):
        for _ in range(10):
            run = await lab.run()

            async def attempt(use: Any) -> str:
                try:
                    await lab.do(use)
                except Refusal as refusal:
                    return refusal.code
                return "done"

            registered, ended = await asyncio.gather(
                attempt(lambda work: work.artifacts.register(run.id, name="A", uri="s3://b/k")),  # noqa: B023
                attempt(lambda work: getattr(work.runs, end)(run.id)),  # noqa: B023
            )
            has_any = await ask(lab.units, lambda uow: uow.artifacts.any_in(run.id))  # noqa: B023
            assert has_any is (registered == "done")
            if end == "archive":
                assert (registered, ended) in {("done", "done"), ("archived", "done")}
            else:
                assert (registered, ended) in {("done", "has_artifacts"), ("not_found", "done")}
