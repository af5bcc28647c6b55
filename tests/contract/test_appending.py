"""What is found of the values of many chunks at once is what is found of each."""

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experiment_adapters.postgres.telemetry.appending import (
    Part,
    _values_of,  # pyright: ignore[reportPrivateUsage]
    columns_of_statistics,
)
from experiment_adapters.postgres.telemetry.merging import statistics_of

_VALUES = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, float("nan"), 1e-121, -1e-120, 1e140, -1e141, 5e-324])


@given(
    rows=st.integers(1, 40).flatmap(
        lambda length: st.lists(st.lists(_VALUES, min_size=length, max_size=length), min_size=1, max_size=5)
    ),
    odd=st.none() | st.lists(_VALUES, min_size=1, max_size=5),
)
def test_statistics_of_many_chunks(rows: list[list[float]], odd: list[float] | None) -> None:
    """To the last bit, whatever comes with them: also in the company of one of another length."""
    wanted = [*rows, odd] if odd else rows
    values, table = _values_of([Part(place, None, array("d", row)) for place, row in enumerate(wanted, start=1)])
    assert values.tobytes() == np.concatenate(wanted).tobytes()
    assert table[:, 0].tolist() == np.cumsum([0, *map(len, wanted[:-1])]).tolist()
    each = [columns_of_statistics(statistics_of(np.array(row))) for row in wanted]
    np.testing.assert_array_equal(table[:, 1:], np.array(each, np.float64))
