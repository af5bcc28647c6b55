"""Hypothesis strategies shared by the suites; they need nothing but the domain."""

import math
from itertools import pairwise

from hypothesis import strategies as st

from experiment_domain.conversions.rules import (
    Identity,
    Linear,
    Outside,
    PiecewisePolynomial,
    Polynomial,
    PolynomialRange,
    ProfileKind,
    Rule,
    Table,
    ValidRange,
)

AWKWARD = [0.0, -0.0, 1.0, -1.0, 0.1, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308]


def finite_floats() -> st.SearchStrategy[float]:
    """Any finite float64, with more everyday and more extreme ones than chance would give."""
    return st.floats(-1e3, 1e3) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(AWKWARD)


def _coefficients() -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(finite_floats(), min_size=1, max_size=12).map(tuple)


@st.composite
def _piecewise_polynomials(draw: st.DrawFn) -> PiecewisePolynomial:
    ends = sorted(draw(st.lists(finite_floats(), min_size=2, max_size=8, unique=True)))
    # Neighbours share an end; leaving some out makes gaps.
    spans = [span for span in pairwise(ends) if draw(st.booleans())] or [(ends[0], ends[-1])]
    return PiecewisePolynomial(tuple(PolynomialRange(low, high, draw(_coefficients())) for low, high in spans))


@st.composite
def _tables(draw: st.DrawFn) -> Table:
    # A table's neighbours must not be further apart than a float64 can say.
    numbers = finite_floats().filter(lambda number: abs(number) <= 8e307)
    xs = sorted(draw(st.lists(numbers, min_size=2, max_size=12, unique=True)))
    return Table(tuple((x, draw(numbers)) for x in xs), draw(st.sampled_from(Outside)))


_RULES: dict[ProfileKind, st.SearchStrategy[Rule]] = {
    ProfileKind.IDENTITY: st.just(Identity()),
    ProfileKind.LINEAR: st.builds(Linear, finite_floats(), finite_floats()),
    ProfileKind.POLYNOMIAL: st.builds(Polynomial, _coefficients()),
    ProfileKind.PIECEWISE_POLYNOMIAL: _piecewise_polynomials(),
    ProfileKind.TABLE: _tables(),
}


def rules(kind: ProfileKind | None = None) -> st.SearchStrategy[Rule]:
    """Rules that `rule_from` would accept, of one kind or of any."""
    return st.one_of(*_RULES.values()) if kind is None else _RULES[kind]


@st.composite
def valid_ranges(draw: st.DrawFn) -> ValidRange | None:
    """None, and ranges with one end or two."""
    low, high = sorted(draw(st.lists(finite_floats(), min_size=2, max_size=2, unique=True)))
    return draw(st.sampled_from([None, ValidRange(low, None), ValidRange(None, high), ValidRange(low, high)]))


def edges(rule: Rule, valid_range: ValidRange | None = None) -> list[float]:
    """The raw values at which a rule changes its formula or ends, and their nearest neighbours."""
    marks: list[float] = []
    if isinstance(rule, PiecewisePolynomial):
        marks += [end for part in rule.ranges for end in (part.min, part.max)]
    if isinstance(rule, Table):
        marks += rule.xs
    if valid_range is not None:
        marks += [end for end in (valid_range.min, valid_range.max) if end is not None]
    return [near for end in marks for near in (math.nextafter(end, -math.inf), end, math.nextafter(end, math.inf))]
