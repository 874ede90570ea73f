"""Subscribers of a run's events that other programs read: a log of JSON lines, and an endpoint for Prometheus."""

from chunkinfer.watching.jsonlines import JsonLines, read_events
from chunkinfer.watching.prometheus import Metrics

__all__ = ["JsonLines", "Metrics", "read_events"]
