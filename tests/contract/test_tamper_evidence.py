"""Whoever gets at the audit log's tables as a superuser leaves a trace, and `verify` names the place."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import frozen

from entities import fresh
from experiment_adapters.postgres.audit import WALKED_AT_ONCE
from experiment_adapters.postgres.settings import DatabaseSettings
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.audit import BROKEN_LINKS, BrokenLink, Flaw, Verification, anchored_heads
from experiment_domain.unit_of_work import UnitsOfWork
from http_api import Client, app_over, token_of
from keeping import ask

pytestmark = pytest.mark.postgres

GUARDS = "ALTER TABLE audit_log {} TRIGGER ALL"
LINK = "sha256({before} || audit_content(link))"


@frozen
class Attacker:
    """A superuser at the tables, with the guards off, and a log of ten records to tamper with."""

    connection: psycopg.Connection[tuple[Any, ...]]
    units: UnitsOfWork
    project_id: UUID

    def tamper(self, *statements: str, **values: Any) -> None:
        """Run statements in one transaction without the guards; `project_id` is this log's."""
        with self.connection.transaction():
            self.connection.execute(GUARDS.format("DISABLE").encode())
            for statement in statements:
                self.connection.execute(statement.encode(), {"project_id": self.project_id, **values})
            self.connection.execute(GUARDS.format("ENABLE").encode())

    def write(self, count: int, project_id: UUID | None = None) -> None:
        """Records as the service writes them."""
        self.connection.execute(
            "INSERT INTO audit_log (id, project_id, at, actor, role, action, target_type, target_id, after)"
            " SELECT gen_random_uuid(), %s, now(), 'ann', 'owner', 'update', 'run', number::text,"
            " jsonb_build_object('n', number) FROM generate_series(1, %s) AS number",
            [project_id or self.project_id, count],
        )

    def record(self, sequence: int) -> UUID:
        """The id of the record in a place."""
        row = self.connection.execute(
            "SELECT id FROM audit_log WHERE project_id = %s AND sequence = %s", [self.project_id, sequence]
        ).fetchone()
        assert row is not None
        return row[0]

    def rewrite(self, since: int, *, with_head: bool) -> None:
        """Calculate the hashes anew, as one would who knows how they are made."""
        self.tamper(
            f"""
            WITH RECURSIVE renewed AS (
                SELECT link.position, link.sequence, {LINK.format(before="before.hash")} AS hash
                FROM audit_log AS link JOIN audit_log AS before
                    ON before.project_id = link.project_id AND before.sequence = link.sequence - 1
                WHERE link.project_id = %(project_id)s AND link.sequence = %(since)s
                UNION ALL
                SELECT link.position, link.sequence, {LINK.format(before="renewed.hash")}
                FROM renewed JOIN audit_log AS link
                    ON link.project_id = %(project_id)s AND link.sequence = renewed.sequence + 1
            )
            UPDATE audit_log SET hash = renewed.hash FROM renewed WHERE audit_log.position = renewed.position
            """,
            *([NOTE_THE_LAST] if with_head else []),
            since=since,
        )

    async def verified(self, anchor: str = "") -> Verification:
        return await ask(self.units, lambda uow: uow.audit.verify(self.project_id, anchored_heads(anchor)))

    async def broken(self, anchor: str = "") -> Sequence[BrokenLink]:
        """What is found."""
        found = await self.verified(anchor)
        assert found.is_intact is (not found.broken)
        return found.broken


NOTE_THE_LAST = """
UPDATE audit_strands SET length = last.sequence, hash = last.hash FROM (
    SELECT sequence, hash FROM audit_log WHERE project_id = %(project_id)s ORDER BY sequence DESC LIMIT 1
) AS last WHERE project_id = %(project_id)s
"""
FORGE = (
    "INSERT INTO audit_log (id, project_id, at, actor, role, action, target_type, target_id, strand, sequence, hash)"
    " SELECT gen_random_uuid(), project_id, now(), 'eve', 'owner', 'approve', 'run', '1', {strand}, {sequence}, hash"
    " FROM audit_strands WHERE project_id = %(project_id)s"
)
CHANGE = "UPDATE audit_log SET actor = 'eve' WHERE project_id = %(project_id)s AND sequence = {}"
DELETE = "DELETE FROM audit_log WHERE project_id = %(project_id)s AND sequence {}"


@pytest.fixture
def attacker(runner: asyncio.Runner, postgres_url: str) -> Iterator[Attacker]:
    opened = PostgresUnitsOfWork.open(settings=DatabaseSettings(url=postgres_url))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        found = Attacker(connection, runner.run(opened.__aenter__()), fresh())
        found.write(10)
        yield found
    runner.run(opened.__aexit__(None, None, None))


def told(broken: Sequence[BrokenLink]) -> list[tuple[Flaw, int, UUID | None]]:
    return [(link.flaw, link.sequence, link.record_id) for link in broken]


async def test_an_untouched_log_is_intact(runner: object, attacker: Attacker) -> None:
    found = await attacker.verified()
    assert (found.is_intact, found.records) == (True, 10)
    attacker.tamper()  # guards off and on again, and nothing else
    assert await attacker.broken(found.anchor) == []


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'eve'",
        "role = 'viewer'",
        "at = at + interval '1 microsecond'",
        "request_id = 'r-1'",
        "address = '192.0.2.1'",
        "action = 'create'",
        "target_type = 'sensor'",
        "target_id = '17'",
        "id = gen_random_uuid()",
        "before = '{}'",
        "after = NULL",
        "after = '{\"n\": 5.0}'",
        "hash = sha256('')",
    ],
)
async def test_a_changed_record(runner: object, attacker: Attacker, change: str) -> None:
    attacker.tamper(f"UPDATE audit_log SET {change} WHERE project_id = %(project_id)s AND sequence = 5")
    (link, *rest) = await attacker.broken()
    assert (link.flaw, link.sequence, link.record_id) == (Flaw.CHANGED, 5, attacker.record(5))
    # Only where the hash itself is another, the next record does not follow it either.
    assert [(other.flaw, other.sequence) for other in rest] == ([(Flaw.CHANGED, 6)] if "hash" in change else [])


async def test_the_last_record_is_deleted(runner: object, attacker: Attacker) -> None:
    attacker.tamper(DELETE.format("= 10"))
    assert told(await attacker.broken()) == [(Flaw.MISSING, 10, None)]
    attacker.write(1)  # what is written afterwards does not hide it
    assert told(await attacker.broken()) == [(Flaw.MISSING, 10, attacker.record(11))]


async def test_records_in_the_middle_are_deleted(runner: object, attacker: Attacker) -> None:
    attacker.tamper(DELETE.format("IN (4, 7, 8)"))
    assert told(await attacker.broken()) == [
        (Flaw.MISSING, 4, attacker.record(5)),
        (Flaw.MISSING, 7, attacker.record(9)),
    ]
    assert "2 record(s)" in (await attacker.broken())[1].detail


async def test_the_first_record_is_deleted(runner: object, attacker: Attacker) -> None:
    attacker.tamper(DELETE.format("= 1"))
    assert told(await attacker.broken()) == [(Flaw.MISSING, 1, attacker.record(2))]


async def test_all_records_are_deleted_and_then_the_head(runner: object, attacker: Attacker) -> None:
    anchor = (await attacker.verified()).anchor
    attacker.tamper(DELETE.format("> 0"))
    (link,) = await attacker.broken()
    assert (link.flaw, link.sequence, link.record_id) == (Flaw.MISSING, 1, None)
    assert "10 record(s)" in link.detail
    attacker.tamper("DELETE FROM audit_strands WHERE project_id = %(project_id)s")
    assert await attacker.broken() == []  # nothing in the database knows of it any more
    assert told(await attacker.broken(anchor)) == [(Flaw.MISSING, 10, None)]


async def test_the_head_alone_is_deleted(runner: object, attacker: Attacker) -> None:
    attacker.tamper("DELETE FROM audit_strands WHERE project_id = %(project_id)s")
    assert [(link.flaw, link.sequence) for link in await attacker.broken()] == [(Flaw.UNKNOWN, 1)]


async def test_a_tail_is_cut_off_and_the_head_set_back(runner: object, attacker: Attacker) -> None:
    anchor = (await attacker.verified()).anchor
    attacker.tamper(DELETE.format("> 7"), NOTE_THE_LAST)
    assert await attacker.broken() == []
    assert told(await attacker.broken(anchor)) == [(Flaw.MISSING, 10, None)]
    attacker.write(3)  # other records in the places of those that are gone
    assert await attacker.broken() == []
    assert told(await attacker.broken(anchor)) == [(Flaw.CHANGED, 10, attacker.record(10))]


async def test_the_head_alone_is_set_back(runner: object, attacker: Attacker) -> None:
    attacker.tamper("UPDATE audit_strands SET length = 7 WHERE project_id = %(project_id)s")
    assert sorted((link.flaw, link.sequence) for link in await attacker.broken()) == [
        (Flaw.CHANGED, 7),
        (Flaw.UNKNOWN, 8),
    ]
    # What would be written next is refused rather than tied to records of unknown origin.
    with pytest.raises(psycopg.Error, match="tampered"):
        attacker.write(1)


async def test_two_records_swap_what_they_say(runner: object, attacker: Attacker) -> None:
    attacker.tamper(
        "UPDATE audit_log SET id = other.id, target_id = other.target_id, after = other.after FROM audit_log AS other"
        " WHERE audit_log.project_id = %(project_id)s AND other.project_id = audit_log.project_id"
        " AND (audit_log.sequence, other.sequence) IN ((3, 6), (6, 3))"
    )
    assert told(await attacker.broken()) == [
        (Flaw.CHANGED, 3, attacker.record(3)),
        (Flaw.CHANGED, 6, attacker.record(6)),
    ]


async def test_two_records_swap_places(runner: object, attacker: Attacker) -> None:
    third, sixth = attacker.record(3), attacker.record(6)
    move = "UPDATE audit_log SET sequence = {} WHERE project_id = %(project_id)s AND sequence = {}"
    attacker.tamper(*(move.format(target, source) for target, source in ((-1, 3), (3, 6), (6, -1))))
    found = {(link.sequence, link.record_id) for link in await attacker.broken()}
    # Neither they nor those behind them follow the one that is before them now.
    assert found == {(3, sixth), (4, attacker.record(4)), (6, third), (7, attacker.record(7))}
    assert {link.flaw for link in await attacker.broken()} == {Flaw.CHANGED}


async def test_a_forged_record_is_put_at_the_end(runner: object, attacker: Attacker) -> None:
    attacker.tamper(FORGE.format(strand="strand", sequence="length + 1"))
    assert [(link.flaw, link.sequence) for link in await attacker.broken()] == [(Flaw.UNKNOWN, 11)]
    attacker.tamper("UPDATE audit_strands SET length = 11 WHERE project_id = %(project_id)s")
    assert told(await attacker.broken()) == [(Flaw.CHANGED, 11, attacker.record(11))]


async def test_a_forged_record_is_put_in_between(runner: object, attacker: Attacker) -> None:
    away = "UPDATE audit_log SET sequence = -sequence WHERE project_id = %(project_id)s AND sequence > 5"
    back = "UPDATE audit_log SET sequence = 1 - sequence WHERE project_id = %(project_id)s AND sequence < 0"
    attacker.tamper(
        away,
        back,
        FORGE.format(strand="strand", sequence="6"),
        "UPDATE audit_strands SET length = 11 WHERE project_id = %(project_id)s",
    )
    assert told(await attacker.broken()) == [
        (Flaw.CHANGED, 7, attacker.record(7)),
        (Flaw.CHANGED, 6, attacker.record(6)),  # written last, and named after what was written before it
    ]


async def test_a_forged_record_is_put_on_a_strand_of_its_own(runner: object, attacker: Attacker) -> None:
    attacker.tamper(FORGE.format(strand="strand + 1000", sequence="1"))
    (link,) = await attacker.broken()
    assert (link.flaw, link.sequence) == (Flaw.UNKNOWN, 1)


async def test_a_record_is_given_to_another_project(runner: object, attacker: Attacker) -> None:
    other = fresh()
    attacker.write(2, other)
    attacker.tamper(
        "UPDATE audit_log SET project_id = %(other)s WHERE project_id = %(project_id)s AND sequence = 10", other=other
    )
    assert told(await attacker.broken()) == [(Flaw.MISSING, 10, None)]
    elsewhere = await ask(attacker.units, lambda uow: uow.audit.verify(other))
    assert [link.flaw for link in elsewhere.broken] == [Flaw.UNKNOWN]


async def test_a_record_is_written_anew_with_its_hash(runner: object, attacker: Attacker) -> None:
    attacker.tamper(
        CHANGE.format(5),
        "UPDATE audit_log AS link SET hash = sha256(before.hash || audit_content(link)) FROM audit_log AS before"
        " WHERE link.project_id = %(project_id)s AND link.sequence = 5"
        " AND before.project_id = link.project_id AND before.sequence = 4",
    )
    assert told(await attacker.broken()) == [(Flaw.CHANGED, 6, attacker.record(6))]


async def test_a_strand_is_written_anew_from_a_record_on(runner: object, attacker: Attacker) -> None:
    anchor = (await attacker.verified()).anchor
    attacker.tamper(CHANGE.format(5))
    attacker.rewrite(5, with_head=False)
    (link,) = await attacker.broken()
    assert (link.flaw, link.sequence) == (Flaw.CHANGED, 10)  # the head has noted another one
    attacker.tamper(NOTE_THE_LAST)
    assert await attacker.broken() == []
    assert told(await attacker.broken(anchor)) == [(Flaw.CHANGED, 10, attacker.record(10))]


async def test_the_last_record_is_written_anew_with_its_hash(runner: object, attacker: Attacker) -> None:
    attacker.tamper(CHANGE.format(10))
    attacker.rewrite(10, with_head=False)
    assert [(link.flaw, link.sequence) for link in await attacker.broken()] == [(Flaw.CHANGED, 10)]


async def test_strands_are_watched_each_for_itself(runner: object, attacker: Attacker, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as held, psycopg.connect(postgres_url) as other:
        # Two that write at once: neither waits for the other.
        for connection in (held, other):
            Attacker(connection, attacker.units, attacker.project_id).write(3)
        other.commit()
        held.commit()
    found = await attacker.verified()
    assert (found.is_intact, found.records, sorted(head.length for head in found.heads)) == (True, 16, [3, 13])
    second = max(head.strand for head in found.heads)
    attacker.tamper(
        "UPDATE audit_log SET actor = 'eve' WHERE project_id = %(project_id)s AND strand = %(strand)s AND sequence = 2",
        strand=second,
    )
    assert [(link.flaw, link.strand, link.sequence) for link in await attacker.broken()] == [(Flaw.CHANGED, second, 2)]


async def test_owners_are_told_of_both_at_once(runner: object, attacker: Attacker) -> None:
    owner = Client(app_over(attacker.units), token_of(f"owner-{fresh()}"))
    project = await owner.done("POST", "/projects", {"name": "P"}, 201)
    for number in range(8):
        await owner.done("PATCH", f"/projects/{project['id']}", {"name": f"P {number}"})
    victim = Attacker(attacker.connection, attacker.units, UUID(project["id"]))
    query: dict[str, Any] = {"params": {"project_id": project["id"]}}
    intact = await owner.done("GET", "/audit/verify", **query)
    assert (intact["ok"], intact["first_broken"], intact["records"]) == (True, None, 9)
    fourth = victim.record(4)
    victim.tamper(CHANGE.format(4))
    changed = await owner.done("GET", "/audit/verify", **query)
    assert changed["first_broken"]["record_id"] == str(fourth)
    victim.tamper(DELETE.format("= 9"))
    found = await owner.done("GET", "/audit/verify", **query)
    assert (found["ok"], found["records"]) == (False, 8)
    assert [(link["flaw"], link["sequence"], link["record_id"]) for link in found["items"][0]["broken"]] == [
        ("changed", 4, str(fourth)),
        ("missing", 9, None),
    ]
    assert found["first_broken"] == found["items"][0]["broken"][0]
    query["params"]["anchor"] = intact["items"][0]["anchor"]
    found = await owner.done("GET", "/audit/verify", **query)
    assert [link["detail"] for link in found["items"][0]["broken"][2:]] == ["the record that was anchored is gone"]


async def test_a_long_chain_is_walked_in_parts(runner: object, attacker: Attacker) -> None:
    count = 2 * WALKED_AT_ONCE + WALKED_AT_ONCE // 5
    attacker.write(count - 10)
    found = await attacker.verified()
    assert (found.is_intact, found.records) == (True, count)
    # Flaws at the seams of the parts, and behind them.
    seams = [WALKED_AT_ONCE, WALKED_AT_ONCE + 1, 2 * WALKED_AT_ONCE]
    attacker.tamper(*map(CHANGE.format, seams), DELETE.format(f"= {WALKED_AT_ONCE + 7}"))
    found = await attacker.verified()
    assert found.records == count - 1
    assert [(link.flaw, link.sequence) for link in found.broken] == [
        (Flaw.CHANGED, seams[0]),
        (Flaw.CHANGED, seams[1]),
        (Flaw.MISSING, WALKED_AT_ONCE + 7),
        (Flaw.CHANGED, seams[2]),
    ]
    attacker.tamper("UPDATE audit_log SET actor = 'eve' WHERE project_id = %(project_id)s AND mod(sequence, 2) = 0")
    assert len(await attacker.broken()) == BROKEN_LINKS
