"""Subscribers of a run's events that other programs read: a log of JSON lines, and an endpoint for Prometheus."""
