"""Lists of many runs: at depth, by every filter, and by pairs of filters."""

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from uuid import uuid4

from load.bench import Bench
from load.http_client import Api
from load.measures import Measure, Row, measured

PAGE = 50
CLIENTS = 2
SECONDS = 15.0
PAIRS = 300
ORDERS = ("-created_at", "created_at", "-started_at", "name", "finished_at")
STEP = 500
STEPS = 8


async def lists(bench: Bench) -> list[Row]:
    """Runs by status and tag: every page once, following cursors to the end, then pages at random depth."""
    pool, api, seconds = bench.pool, bench.api, min(bench.seconds, SECONDS)
    project_id = bench.seed(bench.runs)
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

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    rows.append(depth.row("lists", f"random depth, {CLIENTS} clients", time.perf_counter() - began))
    return rows


async def filters(bench: Bench) -> list[Row]:
    """Runs by every filter and by pairs of them, in several orders: first pages, and pages ever deeper."""
    pool, api = bench.pool, bench.api
    project_id = bench.seed(bench.runs)
    alone = await _filters_of(api, project_id)
    chance = random.Random(4)
    asked = [(name, value, sort) for name, values in alone.items() for value in values for sort in ORDERS]
    pairs = [
        ("pairs", f"{one}&{other}", chance.choice(ORDERS))
        for ones, others in combinations(alone.values(), 2)
        for one, other in product(ones, others)
    ]
    asked += chance.sample(pairs, min(PAIRS, len(pairs)))
    chance.shuffle(asked)
    measures: defaultdict[str, Measure] = defaultdict(Measure)
    began = time.perf_counter()

    async def client() -> None:
        while asked:
            kind, value, sort = asked.pop()
            path = f"/runs?project_id={project_id}&{value}&sort={sort}"
            cursor = ""
            for _ in range(STEPS):
                await measured(pool, api.request("GET", f"{path}&limit={PAGE}{cursor}"), measures[kind])
                # Down the list in large steps, which are not measured: a cursor holds for pages of any size.
                following = (await api.call("GET", f"{path}&limit={STEP}{cursor}"))["next_cursor"]
                if following is None:
                    break
                cursor = f"&cursor={following}"

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
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
