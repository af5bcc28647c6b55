"""Telemetry on its way in: batches of readings, as the body of a request."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from experiment_domain.kernel.access import Caller, SensorToken
from experiment_domain.telemetry.batches import Batch
from experiment_domain.telemetry.store import Offer
from experiment_domain.usecases import Work
from experiment_domain.usecases.telemetry import Accepted, TelemetryUseCases
from experiment_http.answers import View, one
from experiment_http.arrow import batch_from_arrow
from experiment_http.bodies import ARROW, MESSAGE_PACK, BodyKind
from experiment_http.operations import Api, Operations
from experiment_http.spooling import SPOOLED
from experiment_http.v1.batches import LARGEST, Message, batch_from, batch_from_packed


class AcceptedView(View, frozen=True):
    """What became of a batch: how many readings are kept, how many of them came late, and whether it was known."""

    example: ClassVar[Mapping[str, Any]] = {
        "accepted": 2,
        "late": 0,
        "duplicate": False,
        "capture_session_id": "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c",
    }

    accepted: int
    late: int
    duplicate: bool
    capture_session_id: UUID


async def together(api: Api, caller: Caller, batch: Batch) -> Accepted | None:
    """Store a batch with those of other sensors that are under way; None where that cannot be."""
    if not isinstance(caller.principal, SensorToken) or batch.capture_session_id is None:
        return None
    return await api.gathering.store(Offer(token_hash=caller.principal.token_hash, batch=batch))


operations = Operations("telemetry", "Readings, in with a sensor's token and out with a user's.")


@operations.post(
    "/telemetry",
    TelemetryUseCases.ingest,
    one(AcceptedView),
    body=BodyKind(
        schema=Message,
        decode=batch_from,
        others={MESSAGE_PACK: batch_from_packed, ARROW: batch_from_arrow},
        limit=LARGEST,
        packed=True,
    ),
    refuses=(404,),
    spooled=SPOOLED,
    let_in=lambda work: work.telemetry.check_sender(),
    together=together,
)
async def ingest_telemetry(work: Work, body: Batch) -> Accepted:
    """Send a batch of readings, with the sensor's own token.

    It is accepted whole and durable, or refused whole; refusals name the first bad readings (`bad_readings`).
    The same batch again changes nothing and is answered as the first time. The body may be packed with gzip or zstd;
    it has at most 16 MiB unpacked, and 100,000 readings. Integers are microseconds since the Unix epoch.

    While its database is away the service keeps batches of the sensors that it knows on its own disk, if it is set up
    to: the answer is then 202 with `spooled`. Such a batch is durable as well; when the database is back, it is stored
    in the order of reception and judged as of it. Until then, further batches of the sensor get the same answer.

    Besides JSON, the body may be the same message in MessagePack (`application/vnd.msgpack`; a timestamp may also be of
    MessagePack's own kind), or an Arrow IPC stream (`application/vnd.apache.arrow.stream`) of the columns `timestamp`
    (`timestamp[us]` with a time zone, or `int64` microseconds), `value` (`float64`) and, if wanted, `signal` (`utf8`,
    `large_utf8`, or a dictionary of them), without nulls and without compressed buffers; `capture_session_id` and
    `batch_id` then stand in the metadata of its schema.

    The same messages can be sent as frames of a WebSocket: see `GET /telemetry/ws`.
    """
    return await work.telemetry.ingest(body)
