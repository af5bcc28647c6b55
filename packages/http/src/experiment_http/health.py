"""Whether the service lives, whether it is ready, and its metrics; none of which needs a token."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from experiment_http import times
from experiment_http.causes import cause_of
from experiment_http.spooling import Spooling

Check = Callable[[], Awaitable[None]]
NO_STORE = {"Cache-Control": "no-store"}

log = structlog.get_logger("experiment_http")


async def readiness(checks: Mapping[str, Check], timeout: float) -> tuple[bool, dict[str, Any]]:  # noqa: ASYNC109 - one for each check
    """Whether every dependency answers, and what to say of each. Why one fails is for the log only."""

    async def result(name: str, check: Check) -> tuple[str, dict[str, Any]]:
        begun = time.perf_counter()
        status = "ok"
        try:
            async with asyncio.timeout(timeout):
                await check()
        except Exception as error:  # noqa: BLE001 - whatever fails, the answer is the same
            status = "failed"
            log.warning("dependency_failed", dependency=name, **cause_of(error))
        return name, {"status": status, "latency": round(time.perf_counter() - begun, 6)}

    results = dict(await asyncio.gather(*(result(name, check) for name, check in checks.items())))
    ready = all(found["status"] == "ok" for found in results.values())
    return ready, {"status": "ok" if ready else "failed", "dependencies": results}


def spool_content(spooling: Spooling) -> dict[str, Any]:
    """What to say of the spool."""
    status = spooling.reception.status()
    return {
        "status": "failed" if status.is_full else "spooling" if status.batches else "ok",
        "batches": status.batches,
        "bytes": status.bytes,
        "oldest_at": None if status.oldest_at is None else times.text(status.oldest_at),
        "refused": status.refused,
    }


def routes(
    checks: Mapping[str, Check], timeout: float, registry: CollectorRegistry, spooling: Spooling | None
) -> list[HTTPRouteHandler]:
    """The open routes."""

    @get("/health/live", name="live", opt={"open": True})
    async def live() -> Response[bytes]:
        return _json(200, {"status": "ok"})

    @get("/health/ready", name="ready", opt={"open": True})
    async def ready() -> Response[bytes]:
        is_ready, content = await readiness(checks, timeout)
        if spooling is not None:
            content["spool"] = spool_content(spooling)
            if not is_ready and spooling.reception.is_taking:
                # A balancer that took this process out would keep readings from the spool.
                is_ready, content["status"] = True, "spooling"
        return _json(200 if is_ready else 503, content)

    @get("/metrics", name="metrics", opt={"open": True})
    async def metrics() -> Response[bytes]:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST, headers=NO_STORE)

    return [live, ready, metrics]


def _json(status: int, content: Mapping[str, Any]) -> Response[bytes]:
    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json", headers=NO_STORE)
