"""What text and JSON values the domain accepts, and when two of them are the same."""

from typing import Any

import pytest

from entities import NOW, an_experiment
from experiment_domain.kernel.entity import differences
from experiment_domain.kernel.values import WORD_LENGTH, same, words_of
from experiment_domain.runs import values_meant

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


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("Pump run", "pump-2"), ("pump", "run", "2")),
        (("a_b  A\tb",), ("a", "b")),
        ((None, "", " "), ()),
        (("!? _ % \\ '",), ()),
        (("Größe STRASSE Straße",), ("grösse", "strasse")),
        (("e\u0301 \u00e9 É",), ("é",)),
        (("İstanbul",), ("istanbul",)),
        (("ＲＵＮ ①",), ("run", "1")),
        (("漢字 ok",), ("漢字", "ok")),
        (("x" * 300,), ("x" * WORD_LENGTH,)),
    ],
)
def test_words_are_letters_and_digits_however_they_are_written(texts: Any, words: Any):
    assert words_of(*texts) == words


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("600", ["600", 600]),
        ("6e2", ["6e2", 600.0]),
        ("true", ["true", True]),
        ("null", ["null", None]),
        ("9" * 20, ["9" * 20, 1e20]),
        *((text, [text]) for text in ("", "316L", "NaN", "[1]", '"a"', "1e400", "9" * 400, "9" * 5_000, "[" * 99_999)),
    ],
)
def test_a_text_means_itself_and_the_scalar_that_it_spells(text: str, values: Any):
    assert values_meant(text) == values
