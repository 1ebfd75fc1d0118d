"""Teach an architecture: derive its entry of families.toml from a model, and try it."""

ENTRIES = {"commands": {"families": "bench.parts.families.command:families_app"}}
