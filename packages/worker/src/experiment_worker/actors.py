"""What the worker does. Every effect is idempotent: a message may be lost, late or doubled."""

from attrs import frozen
from dramatiq import Actor, Broker, actor
from structlog import get_logger

from experiment_domain import Services, System
from experiment_domain.idempotency import KEPT_FOR

log = get_logger(__name__)


@frozen(kw_only=True)
class Actors:
    """The actors on one broker."""

    forget_first_answers: Actor[[], None]

    @classmethod
    def on(cls, broker: Broker, services: Services) -> "Actors":
        """Declare them; the broker's workers take them up at once."""

        async def forget_first_answers() -> None:
            """Forget the answers whose idempotency keys are no longer promised to be known."""
            async with services.begin(System()) as work:
                forgotten = await work.idempotency.purge(services.clock.now() - KEPT_FOR)
            log.info("first answers forgotten", count=forgotten)

        return cls(forget_first_answers=actor(forget_first_answers, broker=broker, max_retries=3))  # pyright: ignore[reportCallIssue] - its types know no coroutines
