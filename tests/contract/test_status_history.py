"""What every `StatusHistory` promises."""

from attrs import evolve

from entities import fresh, later
from experiment_domain.kernel.entity import StatusChange
from experiment_domain.runs import RunStatus
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, ask, committed


async def test_transitions_come_back_oldest_first(units_of_work: UnitsOfWork):
    first = StatusChange(
        entity_type="run",
        entity_id=fresh(),
        project_id=fresh(),
        source=RunStatus.DRAFT,
        target=RunStatus.RUNNING,
        at=later(0.000001),
        actor=ODD_TEXT,
        role="owner",
        reason=ODD_TEXT,
    )
    # Oldest is what was recorded first, whatever the clocks said.
    second = evolve(first, source="running", target="finished", at=later(-60), reason=None)
    third = evolve(first, source="finished", target="archived", at=later(-60), role="")
    other = evolve(first, entity_id=fresh())
    namesake = evolve(first, entity_type="experiment")
    async with committed(units_of_work) as uow:
        uow.history.record(first)
        uow.history.record(other)
        uow.history.record(second)
        assert list(await uow.history.of("run", first.entity_id)) == [first, second]
    async with committed(units_of_work) as uow:
        uow.history.record(namesake)
        uow.history.record(third)
    assert list(await ask(units_of_work, lambda uow: uow.history.of("run", first.entity_id))) == [first, second, third]
    assert list(await ask(units_of_work, lambda uow: uow.history.of("experiment", first.entity_id))) == [namesake]
    assert list(await ask(units_of_work, lambda uow: uow.history.of("run", fresh()))) == []


def test_a_history_is_only_ever_added_to():
    # The port itself has no way to change or remove: what a caller cannot say, no caller does.
    from experiment_domain.audit import AuditLog
    from experiment_domain.kernel.entity import StatusHistory

    for port in (StatusHistory, AuditLog):
        assert not {name for name in vars(port) if not name.startswith("_")} - {"record", "of", "page", "verify"}
