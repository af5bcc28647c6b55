"""Columns as they were sent: checked by NumPy, which looks through all readings in one go.

It counts those that are not as they should be: `all` and `any` take twice as long for a thousand.
"""

from functools import cached_property

import numpy as np
from attrs import frozen

from experiment_domain.telemetry.batches import Column


@frozen(eq=False)
class SentColumn(Column):
    """A column that answers what the domain's would, and faster."""

    @cached_property
    def rises(self) -> bool:
        """Whether the timestamps rise strictly."""
        stamps = np.frombuffer(self.timestamps, np.int64)
        return not np.count_nonzero(stamps[1:] <= stamps[:-1])

    @cached_property
    def is_finite(self) -> bool:
        """Whether every value is a finite number."""
        return np.count_nonzero(np.isfinite(np.frombuffer(self.values))) == len(self)
