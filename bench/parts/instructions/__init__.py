"""Instructions that a program can check: the measure `ifbench`."""

ENTRIES = {"measures": {"ifbench": "bench.parts.instructions.ifbench:Ifbench"}}
