"""What every `AuditLog` promises."""

from attrs import evolve

from entities import a_project, fresh, later
from experiment_domain.audit import AuditRecord
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, ask, committed, keep


async def test_commands_come_back_oldest_first(units_of_work: UnitsOfWork):
    project, other = a_project(), a_project()
    await keep(units_of_work, project, other)
    first = AuditRecord(
        id=fresh(),
        project_id=project.id,
        at=later(0.000001),
        actor=ODD_TEXT,
        role="owner",
        request_id=ODD_TEXT,
        address="2001:db8::1",
        action="update",
        target_type="run",
        target_id=str(fresh()),
        before={"name": ODD_TEXT, "n": [1, 0.5, None, True, {"a": []}]},
        after={},
    )
    second = evolve(first, id=fresh(), at=later(-60), request_id=None, address=None, before=None, after=None)
    third = evolve(first, id=fresh(), target_type="member", target_id=ODD_TEXT, role="")
    foreign = evolve(first, id=fresh(), project_id=other.id)
    async with committed(units_of_work) as uow:
        uow.audit.record(first)
        uow.audit.record(foreign)
        uow.audit.record(second)
    async with committed(units_of_work) as uow:
        uow.audit.record(third)
        assert list(await uow.audit.of(project.id)) == [first, second, third]
    assert list(await ask(units_of_work, lambda uow: uow.audit.of(project.id))) == [first, second, third]
    assert list(await ask(units_of_work, lambda uow: uow.audit.of(other.id))) == [foreign]
    assert list(await ask(units_of_work, lambda uow: uow.audit.of(fresh()))) == []
