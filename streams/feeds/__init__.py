"""Live feeds: messages of a Redis Stream or a Kafka topic, checked at the door and appended to the log."""
