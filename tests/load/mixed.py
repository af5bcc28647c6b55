"""Single requests: an open loop of a mixture of them, and closed loops of one kind at a time."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from uuid import uuid4

from attrs import frozen

from load.bench import Bench
from load.http_client import Api
from load.measures import Measure, Row, measured

Request = Callable[[], bytes]

MIX: Mapping[str, float] = {"get run": 0.4, "create run": 0.2, "list runs": 0.2, "update run": 0.2}
RUNS = 20_000  # two experiments: one to list, one to create in
CLOSED_CLIENTS = 8
CLOSED_SECONDS = 8.0
PAGE = 50


@frozen
class Stock:
    """What is there to ask for: an experiment with 10,000 runs, another one to create in, runs that can change."""

    project_id: str
    listed_experiment_id: str
    growing_experiment_id: str
    run_ids: Sequence[str]


async def stock_of(api: Api, project_id: str) -> Stock:
    experiments = await api.items(f"/experiments?project_id={project_id}", 100)
    listed, growing = experiments[0]["id"], experiments[-1]["id"]
    runs = await api.items(f"/experiments/{growing}/runs?status=finished&status=draft&status=failed", 5_000)
    return Stock(project_id, listed, growing, [run["id"] for run in runs])


def requests_of(api: Api, stock: Stock, chance: random.Random) -> Mapping[str, Request]:
    """What makes the next request of each kind."""
    number = count()

    def create() -> bytes:
        body = {
            "name": f"load {next(number)}",
            "params": {"rpm": chance.randrange(600, 3_000), "fluid": "water"},
            "tags": ["load", "nightly"],
            "participants": ["load"],
        }
        path = f"/experiments/{stock.growing_experiment_id}/runs"
        return api.request("POST", path, body, {"Idempotency-Key": str(uuid4())})

    def update() -> bytes:
        body = {"notes": f"looked at {chance.random()}"}
        return api.request("PATCH", f"/runs/{chance.choice(stock.run_ids)}", body)

    return {
        "get run": lambda: api.request("GET", f"/runs/{chance.choice(stock.run_ids)}"),
        "create run": create,
        "list runs": lambda: api.request("GET", f"/experiments/{stock.listed_experiment_id}/runs?limit={PAGE}"),
        "update run": update,
    }


@frozen(kw_only=True)
class Offered:
    """What became of requests that were sent at their time, and how late they were sent; `took` is in seconds."""

    kinds: Mapping[str, Measure]
    lateness: Measure
    took: float

    @property
    def every(self) -> Measure:
        """All kinds together."""
        every = Measure([value for one in self.kinds.values() for value in one.latencies])
        for one in self.kinds.values():
            every.errors.update(one.errors)
        return every


async def stocked(bench: Bench) -> Stock:
    """A project with so many runs that lists of them are long."""
    return await stock_of(bench.api, bench.seed(RUNS))


async def offered(bench: Bench, stock: Stock) -> Offered:
    """Arrivals at a fixed rate, whatever the answers do: who waits in a queue of ours is measured with it."""
    rate, seconds = bench.rate, bench.seconds
    chance = random.Random(1)
    kinds = chance.choices(tuple(MIX), tuple(MIX.values()), k=round(rate * seconds))
    make = requests_of(bench.api, stock, chance)
    measures: defaultdict[str, Measure] = defaultdict(Measure)
    lags: list[float] = []
    tasks: list[asyncio.Task[bytes | None]] = []
    began = time.perf_counter() + 0.1
    for number, kind in enumerate(kinds):
        intended = began + number / rate
        request = make[kind]()
        pause = intended - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        lags.append(max(0.0, time.perf_counter() - intended))
        tasks.append(asyncio.create_task(measured(bench.pool, request, measures[kind], intended)))
    await asyncio.gather(*tasks)
    took = max(seconds, time.perf_counter() - began)
    return Offered(kinds={kind: measures[kind] for kind in MIX}, lateness=Measure(lags), took=took)


async def mixed(bench: Bench) -> list[Row]:
    """An open loop of all kinds."""
    found = await offered(bench, await stocked(bench))
    rows = [measure.row("mixed", kind, found.took) for kind, measure in found.kinds.items()]
    rows.append(found.every.row("mixed", f"all, offered {bench.rate:g}/s", found.took))
    rows.append(found.lateness.row("mixed", "(lateness of the generator)", found.took))
    return rows


async def closed(bench: Bench) -> list[Row]:
    """A few clients that send the next request when they have the last answer: how much is possible."""
    seconds = min(bench.seconds, CLOSED_SECONDS)
    stock = await stocked(bench)
    rows: list[Row] = []
    for kind, make in requests_of(bench.api, stock, random.Random(2)).items():
        measure = Measure()

        async def client(measure: Measure = measure, make: Request = make, until: float = 0.0) -> None:
            while time.perf_counter() < until:
                await measured(bench.pool, make(), measure)

        began = time.perf_counter()
        await asyncio.gather(*(client(until=began + seconds) for _ in range(CLOSED_CLIENTS)))
        rows.append(measure.row("closed", f"{kind}, {CLOSED_CLIENTS} clients", time.perf_counter() - began))
    return rows
