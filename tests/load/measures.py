"""What is measured: latencies by kind of request, errors by what they were, and one table of it all."""

import math
import platform
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

from load.http_client import ConnectionBroken, Pool

NOT_MODIFIED = 304

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


async def measured(pool: Pool, request: bytes, measure: Measure, since: float | None = None) -> bytes | None:
    """Send a request and note how long it took since it was meant to be sent; its answer, None for an error."""
    began = time.perf_counter() if since is None else since
    try:
        status, body = await pool.ask(request)
    except (OSError, ConnectionBroken, TimeoutError) as error:
        measure.errors[type(error).__name__] += 1
        return None
    if not 200 <= status < 300 and status != NOT_MODIFIED:
        measure.errors[str(status)] += 1
        return None
    measure.latencies.append(time.perf_counter() - began)
    return body


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
