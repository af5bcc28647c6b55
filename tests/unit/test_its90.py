"""Type K thermocouples against the tables that NIST prints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_domain.conversions.its90 import TYPE_K_INVERSE, type_k_emf
from experiment_domain.conversions.parameters import parameters_of, rule_from
from experiment_domain.conversions.rules import ProfileKind, convert

# °C and mV, as printed in the table of type K, to the microvolt.
PRINTED = [
    (-270, -6.458),
    (-200, -5.891),
    (-100, -3.554),
    (-50, -1.889),
    (0, 0.000),
    (25, 1.000),
    (50, 2.023),
    (100, 4.096),
    (200, 8.138),
    (300, 12.209),
    (400, 16.397),
    (500, 20.644),
    (600, 24.905),
    (700, 29.129),
    (800, 33.275),
    (900, 37.326),
    (1000, 41.276),
    (1100, 45.119),
    (1200, 48.838),
    (1300, 52.410),
    (1372, 54.886),
]
# The spread of the inverse's error in °C that NIST states, rounded there to hundredths.
STATED = [(-200.0, 0.0, -0.02, 0.04), (0.0, 500.0, -0.05, 0.04), (500.0, 1372.0, -0.05, 0.06)]
ROUNDING = 0.005


@pytest.mark.parametrize(("celsius", "millivolts"), PRINTED)
def test_voltages_are_the_printed_ones(celsius: float, millivolts: float):
    assert abs(type_k_emf(celsius) - millivolts) <= 0.0005


@pytest.mark.parametrize(("celsius", "millivolts"), [row for row in PRINTED if row[0] >= -200])
def test_printed_voltages_convert_back(celsius: float, millivolts: float):
    physical = convert(TYPE_K_INVERSE, millivolts)
    assert physical is not None
    # Half a microvolt of printing is up to 0.033 °C at −200 °C, on top of the error of the inverse.
    assert abs(physical - celsius) <= 0.1


@pytest.mark.parametrize(("low", "high", "least", "most"), STATED)
def test_the_inverse_errs_no_more_than_stated(low: float, high: float, least: float, most: float):
    errors = []
    for step in range(4001):
        celsius = low + (high - low) * step / 4000
        physical = convert(TYPE_K_INVERSE, type_k_emf(celsius))
        if physical is None:
            # The two outermost ends are rounded to the microvolt, towards the middle.
            assert celsius < -199.97 or celsius > 1371.98
        else:
            errors.append(physical - celsius)
    assert least - ROUNDING <= min(errors)
    assert max(errors) <= most + ROUNDING
    # A wrong digit in a coefficient would also show as an error that is suspiciously one-sided.
    assert min(errors) < 0.0 < max(errors)


@given(st.floats(-270.0, 1372.0), st.floats(-270.0, 1372.0))
def test_hotter_gives_more_millivolts(one: float, other: float):
    low, high = sorted((one, other))
    assert high - low < 1e-6 or type_k_emf(low) < type_k_emf(high)


def test_both_sides_of_zero_meet():
    assert abs(type_k_emf(0.0)) < 1e-8
    assert abs(type_k_emf(-1e-9)) < 1e-8


@pytest.mark.parametrize("celsius", [-270.1, 1372.1, float("nan"), float("inf")])
def test_no_voltage_is_made_up_outside(celsius: float):
    with pytest.raises(ValueError, match="Type K"):
        type_k_emf(celsius)


@pytest.mark.parametrize("millivolts", [-5.892, 54.887])
def test_no_temperature_is_made_up_outside(millivolts: float):
    assert convert(TYPE_K_INVERSE, millivolts) is None


def test_the_constant_is_a_rule_like_any_other():
    assert rule_from(ProfileKind.PIECEWISE_POLYNOMIAL, parameters_of(TYPE_K_INVERSE)) == TYPE_K_INVERSE
