"""What every `ProjectRepository` promises."""

import pytest
from attrs import evolve

from entities import NOW, a_project, fresh, later
from experiment_domain.kernel.access import Role
from experiment_domain.projects import Member, Project
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, all_pages, ask, committed, keep, kept, refused, save

PROJECTS = {
    "plain": a_project(),
    "full": a_project(
        name=ODD_TEXT,
        raw_readers=frozenset({Role.VIEWER}),
        physical_only=True,
        auto_close_after=0.1,
        future_tolerance=86_400.0,
        version=7,
        updated_at=later(0.000001),
        created_by="Zoë <zoe@example.org>",
    ),
    "nobody reads": a_project(raw_readers=frozenset()),
}


@pytest.mark.parametrize("name", PROJECTS)
async def test_every_field_comes_back(units_of_work: UnitsOfWork, name: str):
    project = evolve(PROJECTS[name], id=(new := fresh()), project_id=new)
    await keep(units_of_work, project)
    found = await kept(units_of_work, project)
    assert found == project
    assert {type(role) for role in found.raw_readers} <= {Role}


async def test_a_changed_project_is_kept(units_of_work: UnitsOfWork):
    project = a_project()
    await keep(units_of_work, project)
    edited = project.edit(
        at=later(1), name="B", raw_readers=["owner"], physical_only=True, auto_close_after=60.0
    ).result
    await save(units_of_work, edited)
    assert await kept(units_of_work, project) == edited
    back = edited.edit(at=later(2), auto_close_after=None).result
    await save(units_of_work, back)
    assert await kept(units_of_work, project) == back


async def test_pages_hold_the_named_projects_newest_first(units_of_work: UnitsOfWork):
    # Two of a moment, so that ids decide.
    projects = [a_project(name=str(number), created_at=later(number // 2)) for number in range(7)]
    others = [a_project() for _ in range(2)]
    await keep(units_of_work, *projects, *others)
    ids = {project.id for project in projects}
    pages = await all_pages(
        lambda limit, after: ask(units_of_work, lambda uow: uow.projects.page(ids, limit=limit, after=after)), 3
    )
    assert [[project.name for project in page] for page in pages] == [["6", "5", "4"], ["3", "2", "1"], ["0"]]
    none = await ask(units_of_work, lambda uow: uow.projects.page([], limit=3, after=None))
    assert (list(none.items), none.next) == ([], None)


def _member(project: Project, user_id: str, role: Role = Role.VIEWER, **values: object) -> Member:
    return evolve(Member.create(project_id=project.id, user_id=user_id, role=role, at=NOW), **values)


async def test_members_come_by_user_id(units_of_work: UnitsOfWork):
    project, other = a_project(), a_project()
    await keep(units_of_work, project, other)
    members = [_member(project, name, Role.EDITOR) for name in ("b", "Zoë", "a", "ä", "B", ODD_TEXT)]
    async with committed(units_of_work) as uow:
        for member in members:
            uow.projects.put_member(member)
        uow.projects.put_member(_member(other, "a"))
    found = await ask(units_of_work, lambda uow: uow.projects.members(project.id))
    assert list(found) == sorted(members, key=lambda member: member.user_id)
    assert list(await ask(units_of_work, lambda uow: uow.projects.members(fresh()))) == []


async def test_a_members_role_changes_and_the_day_they_joined_does_not(units_of_work: UnitsOfWork):
    project = a_project()
    await keep(units_of_work, project)
    async with committed(units_of_work) as uow:
        uow.projects.put_member(_member(project, "ann"))
    async with committed(units_of_work) as uow:
        uow.projects.put_member(_member(project, "ann", Role.OWNER, added_at=later(9)))
    found = await ask(units_of_work, lambda uow: uow.projects.members(project.id))
    assert list(found) == [_member(project, "ann", Role.OWNER)]


async def test_a_member_is_removed_from_one_project_only(units_of_work: UnitsOfWork):
    one, other = a_project(), a_project()
    await keep(units_of_work, one, other)
    async with committed(units_of_work) as uow:
        for project in (one, other):
            uow.projects.put_member(_member(project, "ann"))
            uow.projects.put_member(_member(project, "ben"))
    async with committed(units_of_work) as uow:
        uow.projects.remove_member(one.id, "ann")
        uow.projects.remove_member(one.id, "nobody")
    for project, names in ((one, ["ben"]), (other, ["ann", "ben"])):
        found = await ask(units_of_work, lambda uow: uow.projects.members(project.id))  # noqa: B023
        assert [member.user_id for member in found] == names


async def test_a_member_is_of_a_project_that_is_there(units_of_work: UnitsOfWork):
    async with refused(units_of_work, "reference_missing") as uow:
        uow.projects.put_member(_member(a_project(), "ann"))
