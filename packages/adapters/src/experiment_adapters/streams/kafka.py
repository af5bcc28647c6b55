"""Events in Kafka: one topic, whose keys are the subjects."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from experiment_domain.kernel.cloudevents import MEDIA_TYPE, cloud_event
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.relays import EventSink, SinkAway

ARRIVES_WITHIN = 20.0
"""Seconds that Kafka has to take events."""
HEADERS: list[tuple[str, str | bytes | None]] = [("content-type", MEDIA_TYPE.encode())]
_LIBRDKAFKA = logging.getLogger("librdkafka")


class Kafka(EventSink):
    """Sends each event, as structured CloudEvents in JSON, under its subject as key: to one partition, in order.

    librdkafka itself never gives a message up (`message.timeout.ms` is 0): it could send the one after it. A producer
    that has failed, or taken too long, is thrown away with all that it has not sent.
    """

    def __init__(self, brokers: Sequence[str], topic: str, options: Mapping[str, str]) -> None:
        self._topic = topic
        self._configuration: dict[str, Any] = {
            "client.id": "experiment-service",
            "linger.ms": 5,
            **options,
            "bootstrap.servers": ",".join(brokers),
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": 0,
        }
        self._producer: Producer | None = None

    async def publish(self, events: Sequence[RecordedEvent]) -> None:
        try:
            await asyncio.to_thread(self._publish, events)
        except (KafkaException, BufferError) as error:
            raise SinkAway(f"{type(error).__name__}: {error}") from error

    async def tidy(self) -> None:
        """Nothing: how long a topic keeps what it has is told to Kafka."""

    async def close(self) -> None:
        await asyncio.to_thread(self._throw_away)

    def _publish(self, events: Sequence[RecordedEvent]) -> None:
        producer = self._producer = self._producer or Producer(self._configuration, logger=_LIBRDKAFKA)
        failed: list[KafkaError] = []

        def told(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append(error)

        try:
            for recorded in events:
                producer.produce(
                    self._topic,
                    key=recorded.event.subject.encode(),
                    value=msgspec.json.encode(cloud_event(recorded)),
                    headers=HEADERS,
                    on_delivery=told,
                )
            left = producer.flush(ARRIVES_WITHIN)
        except BaseException:
            self._throw_away()
            raise
        if failed or left:
            reason = str(failed[0]) if failed else f"{left} events have not arrived in {ARRIVES_WITHIN:g} s"
            self._throw_away()
            raise SinkAway(reason)

    def _throw_away(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaException):
                producer.purge()
            producer.flush(1.0)
