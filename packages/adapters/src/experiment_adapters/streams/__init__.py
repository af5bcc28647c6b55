"""Event sinks: Redis Streams and Kafka."""
