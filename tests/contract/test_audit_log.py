"""What every `AuditLog` promises."""

from uuid import UUID

import pytest
from attrs import evolve

from entities import a_project, fresh, later
from experiment_domain.audit import AuditFilter, AuditRecord, AuditTarget, Flaw, Verification, anchored_heads
from experiment_domain.kernel.errors import Invalid
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, all_pages, ask, audit_of, committed, keep


def a_record(project_id: UUID, seconds: float = 0.0, **values: object) -> AuditRecord:
    plain = AuditRecord(
        id=fresh(),
        project_id=project_id,
        at=later(seconds),
        actor="ann",
        role="owner",
        request_id="r-1",
        address="2001:db8::1",
        action="update",
        target_type="run",
        target_id=str(fresh()),
    )
    return evolve(plain, **values)


async def write(units: UnitsOfWork, *records: AuditRecord) -> None:
    async with committed(units) as uow:
        uow.audit.record(*records)


async def verified(units: UnitsOfWork, project_id: UUID, anchor: str = "") -> Verification:
    return await ask(units, lambda uow: uow.audit.verify(project_id, anchored_heads(anchor)))


async def test_commands_come_back_as_they_were_written(units_of_work: UnitsOfWork):
    project, other = a_project(), a_project()
    await keep(units_of_work, project, other)
    first = a_record(
        project.id,
        0.000001,
        actor=ODD_TEXT,
        request_id=ODD_TEXT,
        before={"name": ODD_TEXT, "n": [1, 0.5, None, True, {"a": []}]},
        after={},
    )
    second = evolve(first, id=fresh(), at=later(60), request_id=None, address=None, before=None, after=None)
    third = evolve(first, id=fresh(), at=later(60), target_type="member", target_id=ODD_TEXT, role="")
    foreign = evolve(first, id=fresh(), project_id=other.id)
    async with committed(units_of_work) as uow:
        uow.audit.record(first, foreign)
        uow.audit.record(second)
    async with committed(units_of_work) as uow:
        uow.audit.record(third)
        page = await uow.audit.page(AuditFilter(project_ids=[project.id]), limit=10, after=None)
        assert list(page.items) == [third, second, first]
    assert await audit_of(units_of_work, project.id) == [first, second, third]
    assert await audit_of(units_of_work, other.id) == [foreign]
    assert await audit_of(units_of_work, fresh()) == []


async def test_filters_narrow_and_pages_follow_each_other(units_of_work: UnitsOfWork):
    project_id, run_id = fresh(), str(fresh())
    records = [
        a_record(
            project_id,
            number // 3,
            actor=("ann", "ben")[number % 2],
            action=("create", "update", "archive")[number % 3],
            **({"target_id": run_id} if number % 5 == 0 else {"target_type": "sensor"}),
        )
        for number in range(60)
    ]
    await write(units_of_work, *records)
    which = {
        "all": (AuditFilter(project_ids=[project_id, fresh()]), records),
        "actor": (AuditFilter(project_ids=[project_id], actors=["ben"]), records[1::2]),
        "actions": (
            AuditFilter(project_ids=[project_id], actions=["create", "archive"]),
            [record for record in records if record.action != "update"],
        ),
        "one run": (AuditFilter(project_ids=[project_id], targets=[AuditTarget("run", run_id)]), records[::5]),
        "a kind": (
            AuditFilter(project_ids=[project_id], targets=[AuditTarget("sensor", None)]),
            [record for record in records if record.target_type == "sensor"],
        ),
        "an id or a kind": (
            AuditFilter(project_ids=[project_id], targets=[AuditTarget(None, run_id), AuditTarget("sensor", None)]),
            records,
        ),
        "a time": (AuditFilter(project_ids=[project_id], after=later(5), before=later(7)), records[15:21]),
        "nothing": (AuditFilter(project_ids=[fresh()]), []),
    }
    for name, (asked, expected) in which.items():
        pages = await all_pages(
            lambda limit, after, asked=asked: ask(
                units_of_work, lambda uow: uow.audit.page(asked, limit=limit, after=after)
            ),
            7,
        )
        assert [record for page in pages for record in page] == expected[::-1], name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run", AuditTarget("run", None)),
        ("backfill", AuditTarget("backfill", None)),
        ("run/0195", AuditTarget("run", "0195")),
        ("member/a/b", AuditTarget("member", "a/b")),
        ("0195798a-1b2c", AuditTarget(None, "0195798a-1b2c")),
        ("ada", AuditTarget(None, "ada")),
    ],
)
def test_targets_are_kinds_or_ids_or_both(text: str, expected: AuditTarget):
    assert AuditTarget.parsed(text) == expected


async def test_an_untouched_chain_is_intact(units_of_work: UnitsOfWork):
    project_id = fresh()
    empty = await verified(units_of_work, project_id)
    assert (empty.is_intact, empty.records, empty.anchor) == (True, 0, "")
    for number in range(5):
        await write(
            units_of_work, *(a_record(project_id, number, after={"n": 0.1 + number, "t": ODD_TEXT}) for _ in "ab")
        )
    first = await verified(units_of_work, project_id)
    assert first.is_intact
    assert first.records == 10
    assert sum(head.length for head in first.heads) == 10
    await write(units_of_work, a_record(project_id))
    later_on = await verified(units_of_work, project_id, first.anchor)
    assert later_on.is_intact
    assert later_on.records == 11
    assert later_on.anchor != first.anchor


async def test_a_foreign_anchor_is_told(units_of_work: UnitsOfWork):
    project_id, other_id = fresh(), fresh()
    await write(units_of_work, a_record(project_id), a_record(other_id), a_record(other_id))
    strand = (await verified(units_of_work, project_id)).heads[0].strand
    forged = f"{strand}:1:{'00' * 32}"
    (link,) = (await verified(units_of_work, project_id, forged)).broken
    assert (link.flaw, link.sequence) == (Flaw.CHANGED, 1)
    (link,) = (await verified(units_of_work, project_id, f"{strand}:7:{'00' * 32}")).broken
    assert (link.flaw, link.sequence, link.record_id) == (Flaw.MISSING, 7, None)


@pytest.mark.parametrize(
    "text", ["x", "1:2", "1:2:zz", "1:2:" + "a" * 63, "-1:2:" + "a" * 64, ("1:2:" + "a" * 64 + ",") * 400]
)
def test_what_is_no_anchor_is_refused(text: str):
    with pytest.raises(Invalid, match="anchor"):
        anchored_heads(text)
