"""The loads: an open loop of mixed requests, closed loops of single ones, lists at depth, by filters, and ingest."""

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations, count, product
from typing import Any
from uuid import uuid4

from attrs import frozen

from load.http_client import Api, ConnectionBroken, Pool
from load.measures import Measure, Row

Request = Callable[[], bytes]
Measures = defaultdict[str, Measure]

MIX: Mapping[str, float] = {"get run": 0.4, "create run": 0.2, "list runs": 0.2, "update run": 0.2}
CONNECTIONS = 256
CLOSED_CLIENTS = 8
INGEST_CLIENTS = 8
INGEST_BATCH = 1_000
INGEST_MOST_PER_SECOND = 60  # bodies per client and second that are made beforehand
PAGE = 50
LIST_CLIENTS = 2
FILTER_PAIRS = 300
FILTER_ORDERS = ("-created_at", "created_at", "-started_at", "name", "finished_at")
FILTER_STEP = 500
FILTER_STEPS = 8


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


async def measured(pool: Pool, request: bytes, measure: Measure, since: float | None = None) -> bytes | None:
    """Send a request and note how long it took since it was meant to be sent; its answer, None for an error."""
    began = time.perf_counter() if since is None else since
    try:
        status, body = await pool.ask(request)
    except (OSError, ConnectionBroken, TimeoutError) as error:
        measure.errors[type(error).__name__] += 1
        return None
    if not 200 <= status < 300:
        measure.errors[str(status)] += 1
        return None
    measure.latencies.append(time.perf_counter() - began)
    return body


async def mixed(pool: Pool, api: Api, stock: Stock, *, rate: float, seconds: float) -> list[Row]:
    """Arrivals at a fixed rate, whatever the answers do: who waits in a queue of ours is measured with it."""
    chance = random.Random(1)
    kinds = chance.choices(tuple(MIX), tuple(MIX.values()), k=round(rate * seconds))
    make = requests_of(api, stock, chance)
    measures: Measures = defaultdict(Measure)
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
        tasks.append(asyncio.create_task(measured(pool, request, measures[kind], intended)))
    await asyncio.gather(*tasks)
    took = max(seconds, time.perf_counter() - began)
    every = Measure([value for one in measures.values() for value in one.latencies])
    for one in measures.values():
        every.errors.update(one.errors)
    rows = [measures[kind].row("mixed", kind, took) for kind in MIX]
    rows.append(every.row("mixed", f"all, offered {rate:g}/s", took))
    rows.append(Measure(lags).row("mixed", "(lateness of the generator)", took))
    return rows


async def closed(pool: Pool, api: Api, stock: Stock, *, seconds: float) -> list[Row]:
    """A few clients that send the next request when they have the last answer: how much is possible."""
    rows: list[Row] = []
    for kind, make in requests_of(api, stock, random.Random(2)).items():
        measure = Measure()

        async def client(measure: Measure = measure, make: Request = make, until: float = 0.0) -> None:
            while time.perf_counter() < until:
                await measured(pool, make(), measure)

        began = time.perf_counter()
        await asyncio.gather(*(client(until=began + seconds) for _ in range(CLOSED_CLIENTS)))
        rows.append(measure.row("closed", f"{kind}, {CLOSED_CLIENTS} clients", time.perf_counter() - began))
    return rows


async def lists(pool: Pool, api: Api, project_id: str, *, seconds: float) -> list[Row]:
    """Runs by status and tag: every page once, following cursors to the end, then pages at random depth."""
    path = f"/runs?project_id={project_id}&status=finished&tag=nightly&limit={PAGE}"
    walk, depth = Measure(), Measure()
    paths = [path]
    seen: set[str] = set()
    began = time.perf_counter()
    while (body := await measured(pool, api.request("GET", paths[-1]), walk)) is not None:
        page = json.loads(body)
        ids = {run["id"] for run in page["items"]}
        if seen & ids:
            walk.errors["repeated run"] += len(seen & ids)
        seen |= ids
        if page["next_cursor"] is None:
            break
        paths.append(f"{path}&cursor={page['next_cursor']}")
    rows = [walk.row("lists", f"{len(paths)} pages in order, {len(seen):,} runs", time.perf_counter() - began)]
    chance = random.Random(3)
    began = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() < began + seconds:
            await measured(pool, api.request("GET", chance.choice(paths)), depth)

    await asyncio.gather(*(client() for _ in range(LIST_CLIENTS)))
    rows.append(depth.row("lists", f"random depth, {LIST_CLIENTS} clients", time.perf_counter() - began))
    return rows


async def filters(pool: Pool, api: Api, project_id: str) -> list[Row]:
    """Runs by every filter and by pairs of them, in several orders: first pages, and pages ever deeper."""
    alone = await _filters_of(api, project_id)
    chance = random.Random(4)
    asked = [(name, value, sort) for name, values in alone.items() for value in values for sort in FILTER_ORDERS]
    pairs = [
        ("pairs", f"{one}&{other}", chance.choice(FILTER_ORDERS))
        for ones, others in combinations(alone.values(), 2)
        for one, other in product(ones, others)
    ]
    asked += chance.sample(pairs, min(FILTER_PAIRS, len(pairs)))
    chance.shuffle(asked)
    measures: Measures = defaultdict(Measure)
    began = time.perf_counter()

    async def client() -> None:
        while asked:
            kind, value, sort = asked.pop()
            path = f"/runs?project_id={project_id}&{value}&sort={sort}"
            cursor = ""
            for _ in range(FILTER_STEPS):
                await measured(pool, api.request("GET", f"{path}&limit={PAGE}{cursor}"), measures[kind])
                # Down the list in large steps, which are not measured: a cursor holds for pages of any size.
                following = (await api.call("GET", f"{path}&limit={FILTER_STEP}{cursor}"))["next_cursor"]
                if following is None:
                    break
                cursor = f"&cursor={following}"

    await asyncio.gather(*(client() for _ in range(LIST_CLIENTS)))
    took = time.perf_counter() - began
    return [measures[kind].row("filters", kind, took) for kind in (*alone, "pairs")]


async def _filters_of(api: Api, project_id: str) -> Mapping[str, Sequence[str]]:
    """By filter, queries for what is frequent, rare and absent among the seeded runs."""
    runs = await api.items(f"/runs?project_id={project_id}", 1_000)
    shas = Counter(run["git_sha"] for run in runs if run["git_sha"] is not None).most_common()
    experiments = await api.items(f"/experiments?project_id={project_id}", 100)
    bound: Counter[str] = Counter()
    for run in runs[:200]:
        bound.update(one["sensor_id"] for one in (await api.call("GET", f"/runs/{run['id']}/sensors"))["items"])
    sensors = [sensor_id for sensor_id, _ in bound.most_common()]
    profiles = [
        (await api.call("GET", f"/sensors/{sensor_id}/conversion-profiles"))["items"][0]["id"]
        for sensor_id in (sensors[0], sensors[-1])
    ]
    nobody = str(uuid4())
    middle = f"{datetime.now(UTC) - timedelta(days=365):%Y-%m-%dT%H:%M:%SZ}"
    late = runs[99]["created_at"]
    return {
        "experiment_id": [f"experiment_id={experiments[0]['id']}", f"experiment_id={nobody}"],
        "status": ["status=finished", "status=running", "status=draft&status=archived"],
        "tag": ["tag=baseline", "tag=nightly&tag=pump-a", "tag=ticket-100", "tag=none"],
        "any_tag": ["any_tag=baseline&any_tag=nightly", "any_tag=ticket-100&any_tag=ticket-9"],
        "git_sha": [f"git_sha={shas[0][0]}", f"git_sha={shas[-1][0][:7]}", "git_sha=0123456"],
        "participant": ["participant=amara", "participant=guest-01", "participant=nobody"],
        "sensor_id": [*(f"sensor_id={sensor_id}" for sensor_id in (sensors[0], sensors[-1], nobody))],
        "profile_id": [*(f"profile_id={profile_id}" for profile_id in (*profiles, nobody))],
        "created": [f"created_after={middle}", f"created_before={middle}", f"created_after={late}"],
        "started": [f"started_after={middle}", f"started_before={middle}", f"started_after={late}"],
        "param": ["param.fluid=oil", "param.fluid=oil&param.fluid=argon", "param.rpm=600", "param.seal=S-100"],
        "q": ["q=run", "q=pressure+drifted", "q=zero+vent", "q=report+100", "q=nowhere"],
    }


async def ingest(pool: Pool, api: Api, *, seconds: float) -> list[Row]:
    """One sensor and one session per client; what was accepted is counted by the service afterwards."""
    project = await api.call("POST", "/projects", {"name": "Ingest"}, {"Idempotency-Key": str(uuid4())})
    path = {"project_id": project["id"]}
    experiment = await api.call("POST", "/experiments", {**path, "name": "Ingest"})
    clients = [await _ingest_client(api, path, experiment["id"], number) for number in range(INGEST_CLIENTS)]
    measure = Measure()
    accepted = [0] * INGEST_CLIENTS
    most = round(seconds * INGEST_MOST_PER_SECOND)
    bodies = [list(_bodies(session_id, most)) for _, session_id in clients]
    began = time.perf_counter()

    async def client(place: int) -> None:
        token, _ = clients[place]
        sensor = Api(pool, token)
        for body in bodies[place]:
            if time.perf_counter() > began + seconds:
                return
            answer = await measured(pool, sensor.request("POST", "/telemetry", body), measure)
            if answer is not None:
                accepted[place] += json.loads(answer)["accepted"]

    await asyncio.gather(*map(client, range(INGEST_CLIENTS)))
    took = time.perf_counter() - began
    for place, (_, session_id) in enumerate(clients):
        series = (await api.call("GET", f"/capture-sessions/{session_id}/series"))["items"]
        stored = sum(one["count"] for one in series)
        if stored != accepted[place]:
            measure.errors[f"counted {stored:,} of {accepted[place]:,} accepted"] += 1
    total = sum(accepted)
    what = f"batches of {INGEST_BATCH:,}, {INGEST_CLIENTS} sensors"
    label = f"= readings/s, {total:,} counted back"
    problems = "0" if not measure.errors else "see above"
    return [
        measure.row("ingest", what, took),
        ("ingest", label, f"{total / took:,.0f}", f"{total:,}", "", "", "", "", problems),
    ]


async def _ingest_client(api: Api, project: Mapping[str, Any], experiment_id: str, number: int) -> tuple[str, str]:
    """A sensor's token, and the session that it records in: its readings become physical on the way in."""
    sensor = await api.call(
        "POST",
        "/sensors",
        {**project, "name": f"ingest {number}", "sensor_type": "load", "input_unit": "V", "display_unit": "bar"},
    )
    profile = await api.call(
        "POST",
        f"/sensors/{sensor['id']}/conversion-profiles",
        {"kind": "linear", "parameters": {"a": 2.5, "b": -1.0}},
    )
    await api.call("POST", f"/conversion-profiles/{profile['id']}/publish")
    run = await api.call("POST", f"/experiments/{experiment_id}/runs", {"name": f"ingest {number}"})
    await api.call("PUT", f"/runs/{run['id']}/sensors/{sensor['id']}")
    await api.call("POST", f"/runs/{run['id']}/start")
    session = await api.call("POST", f"/runs/{run['id']}/capture-sessions", {"start": True})
    return sensor["token"], session["id"]


def _bodies(session_id: str, most: int) -> Iterator[bytes]:
    """Batches whose timestamps follow each other, a millisecond apart, all in the past."""
    chance = random.Random(session_id)
    values = json.dumps([round(chance.gauss(5.0, 1.0), 4) for _ in range(INGEST_BATCH)], separators=(",", ":"))
    start = int((datetime.now(UTC) - timedelta(days=2)).timestamp()) * 1_000_000
    step = 1_000
    for number in range(most):
        first = start + number * INGEST_BATCH * step
        stamps = ",".join(map(str, range(first, first + INGEST_BATCH * step, step)))
        yield (
            f'{{"capture_session_id":"{session_id}","columns":[{{"signal":"value",'
            f'"timestamps":[{stamps}],"values":{values}}}]}}'
        ).encode()


Scenario = Callable[[], Awaitable[list[Row]]]
