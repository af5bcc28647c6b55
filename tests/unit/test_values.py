"""What text and JSON values the domain accepts, and when two of them are the same."""

from typing import Any

import pytest

from entities import NOW, an_experiment
from experiment_domain.kernel.entity import differences
from experiment_domain.kernel.values import same

DIFFERENT = [(1, True), (0, False), (1, 1.0), ("1", 1), (None, False), ([1], [True]), ({"a": 1}, {"a": True}), ([], {})]
SAME: list[tuple[Any, Any]] = [(1, 1), ("a", "a"), ([1, {"a": None}], [1, {"a": None}]), ((1, 2), [1, 2]), ({}, {})]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_values_of_other_kinds_are_not_the_same(one: Any, other: Any):
    assert not same(one, other)
    assert not same({"deep": [one]}, {"deep": [other]})


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_values_of_one_kind_are_the_same(one: Any, other: Any):
    assert same(one, other)
    assert same({"deep": [one]}, {"deep": [other]})


@pytest.mark.parametrize(("one", "other"), [pair for pair in DIFFERENT if pair != ([], {})])
def test_an_edit_that_python_calls_equal_is_an_edit(one: Any, other: Any):
    change = an_experiment(metadata={"flag": one}).edit(at=NOW, metadata={"flag": other})
    assert not change.is_empty
    assert type(change.result.metadata["flag"]) is type(other)
    before, after = differences(change)
    assert before is not None
    assert after is not None
    assert "metadata" in before.keys() & after.keys()
