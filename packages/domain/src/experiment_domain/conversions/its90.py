"""Type K thermocouples after NIST ITS-90: millivolts to degrees Celsius and back.

Source: NIST Monograph 175 (G. W. Burns et al., 1993) and the NIST ITS-90 Thermocouple Database, Standard
Reference Database 60, `type_k.tab`. Voltages are in millivolts with the reference junction at 0 °C,
temperatures are t₉₀ in degrees Celsius. Coefficients are digit by digit as printed there, from the lowest
degree.
"""

import math

from experiment_domain.conversions.rules import PiecewisePolynomial, Polynomial, PolynomialRange

# The inverse functions are approximations. Their errors as NIST states them, per range:
# −0.02…0.04 °C, −0.05…0.04 °C and −0.05…0.06 °C.
TYPE_K_INVERSE = PiecewisePolynomial(
    (
        PolynomialRange(  # −200 °C to 0 °C
            -5.891,
            0.0,
            (
                0.0000000e00,
                2.5173462e01,
                -1.1662878e00,
                -1.0833638e00,
                -8.9773540e-01,
                -3.7342377e-01,
                -8.6632643e-02,
                -1.0450598e-02,
                -5.1920577e-04,
            ),
        ),
        PolynomialRange(  # 0 °C to 500 °C
            0.0,
            20.644,
            (
                0.000000e00,
                2.508355e01,
                7.860106e-02,
                -2.503131e-01,
                8.315270e-02,
                -1.228034e-02,
                9.804036e-04,
                -4.413030e-05,
                1.057734e-06,
                -1.052755e-08,
            ),
        ),
        PolynomialRange(  # 500 °C to 1372 °C
            20.644,
            54.886,
            (
                -1.318058e02,
                4.830222e01,
                -1.646031e00,
                5.464731e-02,
                -9.650715e-04,
                8.802193e-06,
                -3.110810e-08,
            ),
        ),
    )
)

_BELOW_ZERO = Polynomial(  # −270 °C to 0 °C
    (
        0.000000000000e00,
        0.394501280250e-01,
        0.236223735980e-04,
        -0.328589067840e-06,
        -0.499048287770e-08,
        -0.675090591730e-10,
        -0.574103274280e-12,
        -0.310888728940e-14,
        -0.104516093650e-16,
        -0.198892668780e-19,
        -0.163226974860e-22,
    )
)
_ABOVE_ZERO = Polynomial(  # 0 °C to 1372 °C
    (
        -0.176004136860e-01,
        0.389212049750e-01,
        0.185587700320e-04,
        -0.994575928740e-07,
        0.318409457190e-09,
        -0.560728448890e-12,
        0.560750590590e-15,
        -0.320207200030e-18,
        0.971511471520e-22,
        -0.121047212750e-25,
    )
)
_A0, _A1, _A2 = 0.118597600000e00, -0.118343200000e-03, 0.126968600000e03


def type_k_emf(celsius: float) -> float:
    """The voltage in millivolts of a type K thermocouple at `celsius`, −270 °C to 1372 °C.

    The reference function itself: below 0 °C E = Σ cᵢ·tⁱ, from there on E = Σ cᵢ·tⁱ + a₀·exp(a₁·(t − a₂)²).
    Raises `ValueError` outside. The inverse starts at −200 °C, and its outermost ends are rounded to a
    microvolt: the voltages of exactly −200 °C and 1372 °C lie just outside them.
    """
    if not -270.0 <= celsius <= 1372.0:
        raise ValueError(f"Type K is defined from −270 °C to 1372 °C, not at {celsius} °C.")
    if celsius < 0.0:
        return _BELOW_ZERO.at(celsius)
    return _ABOVE_ZERO.at(celsius) + _A0 * math.exp(_A1 * (celsius - _A2) ** 2)
