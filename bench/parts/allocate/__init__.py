"""Bits and patterns by layer: the command that shares a budget, and the quantizer that reads it."""

ENTRIES = {
    "commands": {"allocate": "bench.parts.allocate.command:allocate"},
    "quantizers": {"allocated": "bench.parts.allocate.allocated:Allocated"},
}
