"""The only room that speaks NATS: connection, subjects, shapes, the queue and the stores."""
