"""Everything of Kafka: the consumer, the dead letters and erasures, and repairs of the client library."""
