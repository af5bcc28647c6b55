"""What every `Converter` promises: the reference's answers, to the bit."""

import math
import random
import struct
from array import array

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_adapters.vectorised import NumpyConverter
from experiment_domain.conversions.its90 import TYPE_K_INVERSE, type_k_emf
from experiment_domain.conversions.rules import (
    Converter,
    Outside,
    PiecewisePolynomial,
    PolynomialRange,
    ProfileKind,
    ScalarConverter,
    Table,
    convert,
    convert_all,
)
from strategies import AWKWARD, edges, finite_floats, rules, valid_ranges


@pytest.fixture(params=[ScalarConverter(), NumpyConverter()], ids=["scalar", "numpy"], scope="module")
def converter(request: pytest.FixtureRequest) -> Converter:
    return request.param


@pytest.mark.parametrize("kind", ProfileKind)
@given(data=st.data())
def test_equals_the_reference_bit_for_bit(converter: Converter, kind: ProfileKind, data: st.DataObject):
    rule = data.draw(rules(kind), label="rule")
    valid_range = data.draw(valid_ranges(), label="valid_range")
    anything = data.draw(st.lists(finite_floats()), label="values")
    # Infinities and NaNs are refused long before, and yet must not become physical values.
    no_readings = [float("inf"), float("-inf"), float("nan")]
    values = array("d", anything + edges(rule, valid_range) + AWKWARD + no_readings)
    before = values.tobytes()

    physical = converter.convert(rule, values, valid_range)

    expected = [convert(rule, value, valid_range) for value in values]
    assert physical.tobytes() == array("d", [float("nan") if y is None else y for y in expected]).tobytes()
    assert values.tobytes() == before


@pytest.mark.parametrize("outside", Outside)
@given(data=st.data())
def test_tables_equal_the_reference_on_every_side(converter: Converter, outside: Outside, data: st.DataObject):
    drawn = data.draw(rules(ProfileKind.TABLE))
    assert isinstance(drawn, Table)
    rule = evolve(drawn, outside=outside)
    valid_range = data.draw(valid_ranges())
    xs = rule.xs
    beyond = [xs[0] - 1.0, xs[-1] + 1.0, -1.7976931348623157e308, 1.7976931348623157e308]
    values = array("d", beyond + edges(rule, valid_range) + AWKWARD)
    expected = [convert(rule, value, valid_range) for value in values]
    physical = converter.convert(rule, values, valid_range)
    assert physical.tobytes() == array("d", [float("nan") if y is None else y for y in expected]).tobytes()


@pytest.mark.parametrize("kind", ProfileKind)
@settings(max_examples=10)
@given(data=st.data())
def test_many_values_at_once_equal_the_reference(converter: Converter, kind: ProfileKind, data: st.DataObject):
    """As many as processors take several at a time of, of every sign and size, down to subnormal ones."""
    rule, valid_range = data.draw(rules(kind)), data.draw(valid_ranges())
    dice = random.Random(data.draw(st.integers(0, 2**32)))
    words = struct.pack("<4099Q", *(dice.getrandbits(64) for _ in range(4_099)))
    values = array("d", [value for (value,) in struct.iter_unpack("<d", words) if math.isfinite(value)])
    expected = [convert(rule, value, valid_range) for value in values]
    physical = converter.convert(rule, values, valid_range)
    assert physical.tobytes() == array("d", [float("nan") if y is None else y for y in expected]).tobytes()


@pytest.mark.parametrize("kind", ProfileKind)
@given(data=st.data())
def test_nothing_converts_to_nothing(converter: Converter, kind: ProfileKind, data: st.DataObject):
    assert converter.convert(data.draw(rules(kind)), array("d"), data.draw(valid_ranges())) == array("d")


@pytest.mark.parametrize("leading", [0.0, -0.0])
def test_ranges_of_unlike_degree_keep_the_signs_of_their_zeros(converter: Converter, leading: float):
    rule = PiecewisePolynomial(
        (
            PolynomialRange(-2.0, 0.0, (leading,)),
            PolynomialRange(0.0, 2.0, (1.0, 2.0, 3.0)),
            PolynomialRange(3.0, 4.0, (leading, leading)),
        )
    )
    values = array("d", [-1.0, -0.0, 0.0, 1.0, 2.5, 3.0, 4.0])
    assert converter.convert(rule, values, None).tobytes() == convert_all(rule, values).tobytes()


def test_a_sweep_of_a_thermocouple(converter: Converter):
    values = array("d", [type_k_emf(tenths / 10.0) for tenths in range(-2700, 13721, 7)])
    physical = converter.convert(TYPE_K_INVERSE, values, None)
    assert physical.tobytes() == convert_all(TYPE_K_INVERSE, values).tobytes()
    assert sum(value == value for value in physical) > 2000  # noqa: PLR0124 - NaN is not itself
