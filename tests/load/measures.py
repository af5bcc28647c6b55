"""What is measured: latencies by kind of request, errors by what they were, and one table of it all."""

import math
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

Row = tuple[str, ...]
HEADER: Row = ("scenario", "request", "rate /s", "count", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors")


@define
class Measure:
    """Latencies of one kind of request, in seconds, and its errors."""

    latencies: list[float] = field(factory=list[float])
    errors: Counter[str] = field(factory=Counter[str])

    def row(self, scenario: str, kind: str, seconds: float) -> Row:
        ordered = sorted(self.latencies)
        count = len(ordered)
        times = [percentile(ordered, share) * 1_000 for share in (0.50, 0.95, 0.99, 1.0)]
        errors = ", ".join(f"{number}× {what}" for what, number in self.errors.most_common(3)) or "0"
        return scenario, kind, f"{count / seconds:,.0f}", f"{count:,}", *(f"{value:,.1f}" for value in times), errors


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the ordered values do not exceed; no interpolation."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def table(rows: Sequence[Row]) -> str:
    """Rows under the header, columns aligned."""
    everything = [HEADER, *rows]
    widths = [max(len(row[place]) for row in everything) for place in range(len(HEADER))]
    lines = []
    for row in everything:
        cells = [
            cell.ljust(width) if place < 2 or place == len(HEADER) - 1 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def machine() -> str:
    """On what it was measured."""
    import os

    import psutil

    model = "unknown processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        model = platform.processor() or model
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{model}, {usable} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; generator and service on the same machine"
    )
