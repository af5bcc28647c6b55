"""The audit log is for owners: each sees that of their own projects."""

import pytest

from entities import fresh
from experiment_domain.audit import AuditFilter, AuditTarget
from experiment_domain.kernel.access import Caller
from experiment_domain.kernel.errors import Forbidden, Invalid, NotFound
from laboratory import Laboratory


@pytest.mark.covers("audit.page")
async def test_owners_see_who_did_what_from_where(lab: Laboratory):
    run = await lab.run()
    caller = Caller(principal=lab.editor, request_id="r-7", address="192.0.2.7")
    await lab.do(lambda work: work.runs.edit(run.id, notes="new"), by=caller)
    which = AuditFilter(project_ids=[lab.project.id], targets=[AuditTarget("run", str(run.id))])
    page = await lab.ask(lambda work: work.audit.page(which))
    edited, created = page.items
    assert (created.action, created.actor) == ("create", lab.owner.id)
    assert (edited.action, edited.actor, edited.role) == ("update", lab.editor.id, "editor")
    assert (edited.request_id, edited.address) == ("r-7", "192.0.2.7")
    assert edited.before is not None
    assert edited.after is not None
    assert (edited.before["notes"], edited.after["notes"]) == (None, "new")


@pytest.mark.covers("audit.page", "audit.verify")
async def test_nobody_else_sees_it(lab: Laboratory):
    other = await Laboratory.open(lab.units)
    everything = AuditFilter(project_ids=())
    assert {record.project_id for record in (await lab.ask(lambda work: work.audit.page(everything))).items} == {
        lab.project.id
    }
    assert [found.project_id for found in await lab.ask(lambda work: work.audit.verify())] == [lab.project.id]
    for user in (lab.viewer, lab.editor, lab.outsider):
        assert list((await lab.ask(lambda work: work.audit.page(everything), by=user)).items) == []
        assert list(await lab.ask(lambda work: work.audit.verify(), by=user)) == []
    named = AuditFilter(project_ids=[lab.project.id])
    for user, refusal in ((lab.viewer, Forbidden), (lab.editor, Forbidden), (lab.outsider, NotFound)):
        with pytest.raises(refusal):
            await lab.ask(lambda work: work.audit.page(named), by=user)
        with pytest.raises(refusal):
            await lab.ask(lambda work: work.audit.verify([lab.project.id]), by=user)
    both = AuditFilter(project_ids=[lab.project.id, other.project.id])
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.audit.page(both))


@pytest.mark.covers("audit.verify")
async def test_an_anchor_is_of_one_project(lab: Laboratory):
    (found,) = await lab.ask(lambda work: work.audit.verify([lab.project.id]))
    assert found.is_intact
    assert found.records == len(await lab.audit())
    (again,) = await lab.ask(lambda work: work.audit.verify([lab.project.id], anchored=found.heads))
    assert again.is_intact
    for projects in ((), (lab.project.id, fresh())):
        with pytest.raises(Invalid, match="anchor"):
            await lab.ask(lambda work, projects=projects: work.audit.verify(projects, anchored=found.heads))
