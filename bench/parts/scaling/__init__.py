"""`bench scaling`: a power law of the cost of sparsity over model size and training tokens."""

ENTRIES = {"commands": {"scaling": "bench.parts.scaling.command:scaling"}}
