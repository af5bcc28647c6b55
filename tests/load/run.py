"""Load on a fresh `experiment-service up`: python tests/load/run.py [--only mixed,closed] [--seconds 30]."""

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fix_up import Up
from load.backfills import backfills
from load.bench import CONNECTIONS, USER, Bench, Scenario
from load.beside import beside
from load.cards import cards
from load.http_client import Api, Pool
from load.idle import idle
from load.ingest import ingest
from load.lists import filters, lists
from load.measures import Row, machine, table
from load.mixed import closed, mixed
from load.reading import reading
from load.relay import relay
from load.streams import streams
from load.webhooks import webhooks

SCENARIOS: Mapping[str, Scenario] = {
    "mixed": mixed,
    "closed": closed,
    "lists": lists,
    "filters": filters,
    "cards": cards,
    "ingest": ingest,
    "streams": streams,
    "backfills": backfills,
    "beside": beside,
    "reading": reading,
    "relay": relay,
    "webhooks": webhooks,
    "idle": idle,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="which scenarios, separated by commas")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each load lasts")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second of the mixed load")
    parser.add_argument("--runs", type=int, default=100_000, help="how many runs the lists are taken of")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(SCENARIOS):
        parser.error(f"unknown scenarios: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if not 0 < options.seconds <= 600 or not 0 < options.rate <= 5_000 or not 0 < options.runs <= 1_000_000:
        parser.error("at most 600 seconds, 5,000 requests per second and 1,000,000 runs")
    with tempfile.TemporaryDirectory(prefix="experiment-load-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o711)  # PostgreSQL does not run as root, and has to pass
        rows, notes = _measure(home, chosen, options)
    print(machine())
    print(*notes, sep="\n")
    print()
    print(table(rows))
    return 1 if any(row[-1] != "0" for row in rows) else 0


def _measure(home: Path, chosen: Sequence[str], options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    notes: list[str] = []
    rows: list[Row] = []
    with Up(home) as up:
        up.wait_until_ready()
        token = up.token(USER)
        for name in chosen:
            print(f"{name} …", file=sys.stderr, flush=True)
            rows += asyncio.run(_run(up, token, name, options, notes))
        notes.append(_memory(up))
    return rows, notes


async def _run(up: Up, token: str, name: str, options: argparse.Namespace, notes: list[str]) -> list[Row]:
    pool = Pool("127.0.0.1", up.port, CONNECTIONS)
    values = {"seconds": options.seconds, "rate": options.rate, "runs": options.runs}
    bench = Bench(up=up, pool=pool, api=Api(pool, token), **values)
    try:
        return await SCENARIOS[name](bench)
    finally:
        notes.extend(f"{name}: {note}" for note in bench.notes)
        pool.close()


def _memory(up: Up) -> str:
    """The peak of each process of the API, as Linux has counted it."""
    peaks: list[str] = []
    for process, role in zip(up.api_processes(), ("server", *["worker"] * 64), strict=False):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            continue
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            peaks.append(f"{role} {int(found[1]) / 1_024:.0f} MiB")
    return f"peak memory of the API: {', '.join(peaks) or 'unknown'}"


if __name__ == "__main__":
    sys.exit(main())
