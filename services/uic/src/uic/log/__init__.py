"""Everything of Kafka: the consumer, the topics beside the log, and repairs of the client library."""
