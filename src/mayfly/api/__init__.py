"""The REST API: authentication, shapes, routes, and the one table from errors to problem+json."""
