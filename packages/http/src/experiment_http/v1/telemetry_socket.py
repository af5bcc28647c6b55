"""Telemetry on its way in by a WebSocket: frames that are batches, stored together where several are waiting."""

from collections.abc import Iterator, Sequence

from attrs import frozen

from experiment_domain.kernel.access import Caller
from experiment_domain.kernel.errors import Forbidden, Refusal, Unauthenticated, Unavailable
from experiment_domain.sensors import OutOfService
from experiment_domain.spool import Promise
from experiment_domain.telemetry.batches import Batch
from experiment_domain.usecases import Work
from experiment_domain.usecases.spooling import Kept, Spooled
from experiment_domain.usecases.telemetry import Accepted, TelemetryUseCases
from experiment_http.answers import Nothing
from experiment_http.operations import API, Api, Operations
from experiment_http.problems import TooLarge, UpgradeRequired
from experiment_http.sockets import Closing, Code, Conversation, Data, Reply, Socket, refused
from experiment_http.v1 import telemetry_in
from experiment_http.v1.batches import frame_from

READINGS = 50_000
"""Batches are stored in one transaction as long as they hold no more readings than these."""
PATH = "/telemetry/ws"
Outcome = Accepted | Spooled | Refusal

operations = Operations(telemetry_in.operations.tag, telemetry_in.operations.about)


@frozen
class TelemetryConversation(Conversation):
    """Frames of one sensor. Those that wait and go to the same session are stored in one transaction."""

    api: Api
    caller: Caller

    async def check(self) -> None:
        """Refuse unless batches of the caller would be taken in."""
        try:
            async with self.api.services.read(self.caller) as work:
                await work.telemetry.check_sender()
        except Unavailable:
            if self.api.spooling is None or not self.api.spooling.reception.knows(self.caller):
                raise

    async def replies(self, frames: Sequence[Data]) -> Sequence[Reply]:
        """Store the batches of the first frames, or tell what is wrong with the first one."""
        first = frame_from(frames[0])
        if isinstance(first.batch, Refusal):
            return [_refusal(first.seq, first.batch)]
        batches = [(first.seq, first.batch), *_following(first.batch, frames)]
        outcomes = await self._stored([batch for _, batch in batches])
        return [_reply(seq, outcome) for (seq, _), outcome in zip(batches, outcomes, strict=False)]

    async def _stored(self, batches: Sequence[Batch]) -> Sequence[Outcome]:
        """What became of the batches; of the first one alone, where they cannot be stored together."""

        async def store() -> Sequence[Outcome]:
            async with self.api.services.begin(self.caller) as work:
                return await work.telemetry.ingest_all(batches)

        try:
            if self.api.spooling is None:
                return await store()
            found = await self.api.spooling.receive(self.caller, batches, store)
            if not isinstance(found, Kept):
                return found
            # Frames have no idempotency keys, so that nothing is promised.
            return [outcome for outcome in found.outcomes if not isinstance(outcome, Promise)]
        except Unavailable as refusal:
            return [refusal] * len(batches)
        except Refusal as refusal:
            return [refusal] if len(batches) == 1 or _is_final(refusal) else await self._stored(batches[:1])


def _following(first: Batch, frames: Sequence[Data]) -> Iterator[tuple[int | None, Batch]]:
    """The batches of the frames after the first one, as far as they can be stored together with it."""
    readings = len(first)
    for place in range(1, len(frames)):
        frame = frame_from(frames[place])
        if isinstance(frame.batch, Refusal) or frame.batch.capture_session_id != first.capture_session_id:
            return
        readings += len(frame.batch)
        if readings > READINGS:
            return
        yield frame.seq, frame.batch


def _reply(seq: int | None, outcome: Outcome) -> Reply:
    if isinstance(outcome, Refusal):
        return _refusal(seq, outcome)
    if isinstance(outcome, Spooled):
        session_id = outcome.capture_session_id
        return Reply({"seq": seq, "accepted": outcome.accepted, "spooled": True, "capture_session_id": session_id})
    return Reply(
        {
            "seq": seq,
            "accepted": outcome.accepted,
            "late": outcome.late,
            "duplicate": outcome.duplicate,
            "capture_session_id": outcome.capture_session_id,
        }
    )


def _refusal(seq: int | None, refusal: Refusal) -> Reply:
    closing = None
    if _is_final(refusal):
        closing = Closing.on(refusal)
    elif seq is None:  # the client could not tell what is refused here from the rest
        closing = Closing(Code.TOO_LARGE if isinstance(refusal, TooLarge) else Code.MALFORMED, refusal.code)
    return Reply({"seq": seq, "error": refused(refusal)}, closing)


def _is_final(refusal: Refusal) -> bool:
    """Whether every further frame would meet it too."""
    return isinstance(refusal, (Unauthenticated, Forbidden, OutOfService))


socket = Socket(path=API + PATH, use_case=TelemetryUseCases.ingest_all, begin=TelemetryConversation)


@operations.get(PATH, TelemetryUseCases.check_sender, Nothing(status=101), refuses=(409, 426))
async def open_telemetry_socket(work: Work) -> None:
    """Open a WebSocket for batches of readings, with the sensor's own token.

    The token stands in `Authorization`, or, since browsers cannot send that, in the subprotocols `telemetry` and
    `bearer.<token>`. A text frame is the message of `POST /telemetry` in JSON, a binary one the same in MessagePack,
    each with a number `seq` of the client's. It is answered, in order and when it is durable, by
    `{"seq": …, "accepted": …, "late": …, "duplicate": …, "capture_session_id": …}`, or by
    `{"seq": …, "error": {"code": …, "status": …, "detail": …, "errors": …}}`, which leaves the others as they are. A
    batch that is kept on the service's disk while its database is away is answered by
    `{"seq": …, "accepted": …, "spooled": true, "capture_session_id": …}`.

    A client need not wait for answers: frames are read as fast as they are stored, and what it sends faster than that
    waits in its own network buffers. Frames that were not answered when a socket closed are sent again on the next
    one, and are stored once.

    The socket is closed with 1007 after a frame that is no message or has no `seq`, 1009 after one of more than
    16 MiB or that cannot be read at all, 4401 when the token no longer counts, 4403 when the sensor is inactive or
    retired, 4408 when nothing was sent for a long time or answers are not read, 1011 after a failure, and 1012 when
    the service restarts. A handshake that is refused is answered as any request, by a problem document.
    """
    await work.telemetry.check_sender()
    raise UpgradeRequired
