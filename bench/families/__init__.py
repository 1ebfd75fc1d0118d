"""Teach an architecture: derive its entry of families.toml from a model, and try it."""
