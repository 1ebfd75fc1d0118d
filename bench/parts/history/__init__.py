"""`bench history`: a metric over commits, and its steps beyond noise."""

ENTRIES = {"commands": {"history": "bench.parts.history.command:history"}}
