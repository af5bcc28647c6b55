"""A test that is marked to cover a use case has to bring it to an end on PostgreSQL, or it fails."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from experiment_adapters.postgres.unit_of_work import PostgresUnitOfWork
from experiment_domain import Work
from experiment_domain.usecases.permits import UseCases


@contextmanager
def watching(names: Iterable[str]) -> Iterator[set[str]]:
    """Those of the use cases that were answered on PostgreSQL while this was open."""
    answered: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            _watch(patch, name, answered)
        yield answered


def _watch(patch: pytest.MonkeyPatch, name: str, answered: set[str]) -> None:
    noun, verb = name.split(".")
    owner = vars(Work)[noun].func.__annotations__["return"]
    use_case = getattr(owner, verb)

    @wraps(use_case)
    async def watched(self: UseCases, *args: Any, **kwargs: Any) -> Any:
        answer = await use_case(self, *args, **kwargs)
        if isinstance(self.uow, PostgresUnitOfWork):
            answered.add(name)
        return answer

    patch.setattr(owner, verb, watched)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Watch while the test itself runs: what only its fixtures did is not what it covers."""
    claimed = {name for mark in item.iter_markers("covers") for name in mark.args}
    # A program runs in a process of its own, and what is misspelt is for `docs/critical_operations.py` to tell.
    claimed = {name for name in claimed if name.partition(".")[0] in vars(Work)}
    if item.get_closest_marker("postgres") is None:
        return (yield)
    with watching(claimed) as answered:
        result = yield
    if missed := claimed - answered:
        pytest.fail(f"it covers {', '.join(sorted(missed))}, but got no answer of it on PostgreSQL", pytrace=False)
    return result
