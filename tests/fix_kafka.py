"""A Kafka to test with: the cluster that librdkafka itself brings along, which speaks the real protocol over TCP."""

import logging
import time
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

QUIET = logging.getLogger("librdkafka")
READ_WITHIN = 60.0


class MockKafka:
    """Lives as long as the client inside of which it runs; other clients, of other processes too, reach its brokers."""

    def __init__(self, brokers: int = 1) -> None:
        # Its own name for what it wants is a warning that the servers given are not used.
        self._home = Producer({"test.mock.num.brokers": brokers, "log_level": 3}, logger=QUIET)
        known = self._home.list_topics(timeout=30).brokers.values()
        self.brokers = [f"{broker.host}:{broker.port}" for broker in known]

    def topics(self) -> set[str]:
        """The names of what was ever sent to."""
        return set(self._home.list_topics(timeout=30).topics)

    def consumer(self, topic: str) -> Consumer:
        """Reads a topic from its beginning."""
        consumer = Consumer(
            {
                "bootstrap.servers": ",".join(self.brokers),
                "group.id": str(uuid4()),
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 3,
            },
            logger=QUIET,
        )
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        return consumer

    def read(self, topic: str, count: int) -> list[Message]:
        """The first messages of a topic, when there are so many."""
        consumer, found = self.consumer(topic), list[Any]()
        deadline = time.monotonic() + READ_WITHIN
        try:
            while len(found) < count:
                found += [message for message in consumer.consume(500, 0.5) if message.error() is None]
                assert time.monotonic() < deadline, f"{len(found)} of {count} messages have come"
        finally:
            consumer.close()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._home.flush(1)
        del self._home
