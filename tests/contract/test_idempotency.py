"""What every `IdempotencyRecords` promises."""

import asyncio
from datetime import timedelta

import pytest
from attrs import evolve

from entities import a_project, fresh, later
from experiment_domain.idempotency import KEPT_FOR, IdempotencyKey, RememberedAnswer
from experiment_domain.kernel.errors import Conflict, Invalid
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import ODD_TEXT, SYSTEM, ask, committed, kept


def _key(principal: str = "user:ann", key: str | None = None) -> IdempotencyKey:
    return IdempotencyKey(principal=principal, key=key or str(fresh()))


ANSWER = RememberedAnswer(fingerprint=b"\x00\xff", content=bytes(range(256)), answered_at=later(0.000001))


async def test_the_first_answer_is_remembered(units_of_work: UnitsOfWork):
    key = _key(ODD_TEXT, ODD_TEXT)
    async with committed(units_of_work) as uow:
        assert await uow.idempotency.claim(key, later(0)) is None
        uow.idempotency.remember(key, ANSWER)
    async with committed(units_of_work) as uow:
        assert await uow.idempotency.claim(key, later(1)) == ANSWER


async def test_two_principals_never_share_a_key(units_of_work: UnitsOfWork):
    key = _key()
    async with committed(units_of_work) as uow:
        uow.idempotency.remember(key, ANSWER)
    for other in (evolve(key, principal="user:ben"), evolve(key, key=f"{key.key}x"), _key("user:ann:", key.key)):
        assert await ask(units_of_work, lambda uow: uow.idempotency.claim(other, later(1))) is None  # noqa: B023


async def test_an_answer_is_kept_with_its_effect_or_not_at_all(units_of_work: UnitsOfWork):
    key, project = _key(), a_project()
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.idempotency.claim(key, later(0)) is None
        uow.projects.add(project)
        uow.idempotency.remember(key, ANSWER)
        assert await uow.projects.get(project.id) == project
    async with committed(units_of_work) as uow:  # the key is free again
        assert await uow.idempotency.claim(key, later(1)) is None
        assert await uow.projects.get(project.id) is None
        uow.idempotency.remember(key, evolve(ANSWER, content=b"second"))
    async with committed(units_of_work) as uow:
        found = await uow.idempotency.claim(key, later(2))
        assert found is not None
        assert found.content == b"second"


async def test_an_answer_grows_old(units_of_work: UnitsOfWork):
    key = _key()
    async with committed(units_of_work) as uow:
        uow.idempotency.remember(key, ANSWER)
    almost = ANSWER.answered_at + KEPT_FOR - timedelta(microseconds=1)
    async with committed(units_of_work) as uow:
        assert await uow.idempotency.claim(key, almost) == ANSWER
    async with committed(units_of_work) as uow:
        assert await uow.idempotency.claim(key, ANSWER.answered_at + KEPT_FOR) is None
        uow.idempotency.remember(key, renewed := evolve(ANSWER, answered_at=later(99_999), content=b""))
    async with committed(units_of_work) as uow:
        assert await uow.idempotency.claim(key, later(100_000)) == renewed


async def test_old_answers_are_forgotten(units_of_work: UnitsOfWork):
    # Years away from the answers of other tests, which share the store.
    then = later(-86_400 * 3_650)
    keys = [_key() for _ in range(4)]
    async with committed(units_of_work) as uow:
        for age, key in enumerate(keys):
            uow.idempotency.remember(key, evolve(ANSWER, answered_at=then + timedelta(seconds=age)))
    async with committed(units_of_work) as uow:
        assert await uow.idempotency.purge(then + timedelta(seconds=2)) == 2
    async with committed(units_of_work) as uow:
        assert await uow.idempotency.purge(then + timedelta(seconds=2)) == 0
        found = [await uow.idempotency.claim(key, then + timedelta(seconds=9)) for key in keys]
    assert [answer is None for answer in found] == [True, True, False, False]


@pytest.mark.parametrize("callers", [2, 20])
async def test_of_many_at_once_one_has_an_effect(units_of_work: UnitsOfWork, callers: int):
    key = _key()
    projects = [a_project() for _ in range(callers)]

    async def create(number: int) -> str:
        try:
            async with committed(units_of_work) as uow:
                answer = await uow.idempotency.claim(key, later(1))
                if answer is not None:
                    return answer.content.decode()
                await asyncio.sleep(0.01)
                uow.projects.add(projects[number])
                uow.idempotency.remember(key, evolve(ANSWER, content=str(number).encode()))
        except Conflict as refusal:
            return refusal.code
        return str(number)

    outcomes = set(await asyncio.gather(*map(create, range(callers))))

    there = [number for number, project in enumerate(projects) if await kept(units_of_work, project)]
    assert len(there) == 1
    assert outcomes - {"idempotency_key_in_progress"} == {str(there[0])}


def test_another_request_with_the_same_key_is_refused():
    ANSWER.check_same_request(b"\x00\xff")
    with pytest.raises(Invalid) as refusal:
        ANSWER.check_same_request(b"\x00\xfe")
    assert refusal.value.code == "idempotency_key_reused"
