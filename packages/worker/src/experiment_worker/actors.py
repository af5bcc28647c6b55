"""What the worker does. Every effect is idempotent: a message may be lost, late or doubled."""

from attrs import frozen
from dramatiq import Actor, Broker, actor
from structlog import get_logger

from experiment_domain import Services, System
from experiment_domain.idempotency import KEPT_FOR
from experiment_domain.sensors import SIGNS_KEPT_FOR

FORGOTTEN_AT_ONCE = 10_000
"""The most rows that one transaction forgets."""

log = get_logger(__name__)


@frozen(kw_only=True)
class Actors:
    """The actors on one broker."""

    forget_first_answers: Actor[[], None]
    forget_signs_of_life: Actor[[], None]

    @classmethod
    def on(cls, broker: Broker, services: Services) -> "Actors":
        """Declare them; the broker's workers take them up at once."""

        async def forget_first_answers() -> None:
            """Forget the answers whose idempotency keys are no longer promised to be known."""
            async with services.begin(System()) as work:
                forgotten = await work.idempotency.purge(services.clock.now() - KEPT_FOR)
            log.info("first answers forgotten", count=forgotten)

        async def forget_signs_of_life() -> None:
            """Forget the signs of life of sensors that are older than anybody may ask for."""
            before = services.clock.now() - SIGNS_KEPT_FOR
            forgotten, last = 0, FORGOTTEN_AT_ONCE
            while last == FORGOTTEN_AT_ONCE:
                async with services.units_of_work.begin(System()) as uow:
                    last = await uow.sensors.forget_signs_of_life(before, most=FORGOTTEN_AT_ONCE)
                    await uow.commit()
                forgotten += last
            log.info("signs of life forgotten", count=forgotten)

        return cls(
            forget_first_answers=actor(forget_first_answers, broker=broker, max_retries=3),  # pyright: ignore[reportCallIssue] - its types know no coroutines
            forget_signs_of_life=actor(forget_signs_of_life, broker=broker, max_retries=3),  # pyright: ignore[reportCallIssue]
        )
