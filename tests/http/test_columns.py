"""Columns as they were sent answer what the domain's columns answer."""

import math
import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_domain.telemetry.batches import EARLIEST, LATEST, Column
from experiment_http.columns import SentColumn
from experiment_http.v1.batches import batch_from

STAMPS = st.lists(st.integers(-3, 3) | st.integers(EARLIEST, LATEST), min_size=1, max_size=30)
VALUES = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308])


@given(stamps=STAMPS | STAMPS.map(sorted) | STAMPS.map(lambda stamps: sorted(set(stamps))), data=st.data())
def test_they_are_looked_through_as_the_domain_does(stamps: list[int], data: st.DataObject) -> None:
    values = data.draw(st.lists(VALUES, min_size=len(stamps), max_size=len(stamps)))
    sent, plain = (kind("value", array("q", stamps), array("d", values)) for kind in (SentColumn, Column))
    assert (sent.rises, sent.is_finite, sent.span) == (plain.rises, plain.is_finite, plain.span)
    assert [list(layer.timestamps) for layer in sent.layers()] == [list(layer.timestamps) for layer in plain.layers()]


@given(stamps=STAMPS, data=st.data())
def test_columns_are_the_numbers_that_were_sent(stamps: list[int], data: st.DataObject) -> None:
    numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
    values = data.draw(st.lists(numbers, min_size=len(stamps), max_size=len(stamps)))
    body = f'{{"columns": [{{"timestamps": {stamps}, "values": {values}}}]}}'.encode()
    (column,) = batch_from(body).columns
    assert isinstance(column, SentColumn)
    assert column.timestamps == array("q", stamps)
    assert column.values.tobytes() == struct.pack(f"{len(values)}d", *values)


@pytest.mark.parametrize("stamp", [2**63, -(2**63) - 1, 10**30])
def test_a_timestamp_that_no_array_holds_is_a_bad_reading(stamp: int) -> None:
    with pytest.raises(Exception, match="timestamp"):
        batch_from(f'{{"columns": [{{"timestamps": [0, {stamp}], "values": [1, 2]}}]}}'.encode())
