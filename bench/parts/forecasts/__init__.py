"""Estimates of the time and memory of a plan, and of the time that a run has left."""

ENTRIES = {"services": {"forecasts": "bench.parts.forecasts.service:FromRecords"}}
