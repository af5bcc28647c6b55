"""Projects and members."""

import pytest

from entities import fresh
from experiment_domain.kernel.access import Role
from experiment_domain.kernel.errors import Conflict, Forbidden, Invalid, NotFound, VersionMismatch
from laboratory import Laboratory, a_user


async def test_who_creates_a_project_owns_it(lab: Laboratory):
    members = await lab.ask(lambda work: work.projects.members(lab.project.id))
    assert {member.user_id: str(member.role) for member in members} == {
        lab.owner.id: "owner",
        lab.editor.id: "editor",
        lab.viewer.id: "viewer",
    }
    record = (await lab.audit())[0]
    assert (record.target_type, record.action, record.actor, record.role) == (
        "project",
        "create",
        lab.owner.id,
        "owner",
    )
    assert (record.before, record.after is not None) == (None, True)


@pytest.mark.parametrize(
    "user_id", ["", " ada", "ada ", " ", "a\u200bda", "x" * 256, "system", "Sensor:7", "integration:x"]
)
async def test_nobody_is_a_member_who_cannot_sign_in(lab: Laboratory, user_id: str):
    with pytest.raises(Invalid, match="user_id"):
        await lab.do(lambda work: work.projects.put_member(lab.project.id, user_id, Role.OWNER))


@pytest.mark.covers("projects.put_member", "projects.remove_member")
async def test_a_project_keeps_an_owner(lab: Laboratory):
    for command in (
        lambda work: work.projects.put_member(lab.project.id, lab.owner.id, Role.EDITOR),
        lambda work: work.projects.remove_member(lab.project.id, lab.owner.id),
    ):
        with pytest.raises(Conflict) as refusal:
            await lab.do(command)
        assert refusal.value.code == "last_owner"
    await lab.do(lambda work: work.projects.put_member(lab.project.id, lab.editor.id, Role.OWNER))
    await lab.do(lambda work: work.projects.remove_member(lab.project.id, lab.owner.id))
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.projects.get(lab.project.id))


@pytest.mark.covers("projects.put_member", "projects.remove_member")
async def test_a_role_changes_from_one_command_to_the_next(lab: Laboratory):
    newcomer = a_user("newcomer")
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.projects.get(lab.project.id), by=newcomer)
    added = await lab.do(lambda work: work.projects.put_member(lab.project.id, newcomer.id, Role.VIEWER))
    lab.clock.pass_by(60)
    with pytest.raises(Forbidden):
        await lab.do(lambda work: work.experiments.create(project_id=lab.project.id, name="E"), by=newcomer)
    promoted = await lab.do(lambda work: work.projects.put_member(lab.project.id, newcomer.id, Role.EDITOR))
    assert (promoted.role, promoted.added_at) == ("editor", added.added_at)
    await lab.do(lambda work: work.experiments.create(project_id=lab.project.id, name="E"), by=newcomer)
    audit = await lab.audit()
    assert await lab.do(lambda work: work.projects.put_member(lab.project.id, newcomer.id, Role.EDITOR)) == promoted
    assert await lab.audit() == audit
    await lab.do(lambda work: work.projects.remove_member(lab.project.id, newcomer.id))
    with pytest.raises(NotFound):
        await lab.ask(lambda work: work.projects.get(lab.project.id), by=newcomer)
    told = [(it.action, it.before, it.after) for it in await lab.audit() if it.target_id == newcomer.id]
    assert told == [
        ("create", None, {"role": "viewer"}),
        ("update", {"role": "viewer"}, {"role": "editor"}),
        ("delete", {"role": "editor"}, None),
    ]


async def test_who_is_no_member_is_not_removed(lab: Laboratory):
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.projects.remove_member(lab.project.id, str(fresh())))


@pytest.mark.covers("projects.edit")
async def test_settings_change_by_version(lab: Laboratory):
    edited = await lab.do(
        lambda work: work.projects.edit(lab.project.id, if_version=1, physical_only=True, raw_readers=["viewer"])
    )
    assert (edited.version, edited.physical_only, edited.raw_readers) == (2, True, frozenset({Role.VIEWER}))
    with pytest.raises(VersionMismatch):
        await lab.do(lambda work: work.projects.edit(lab.project.id, if_version=1, name="B"))
    record = (await lab.audit())[-1]
    assert record.after is not None
    assert record.after["raw_readers"] == ["viewer"]
