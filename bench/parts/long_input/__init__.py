"""Long input: the measure `ruler`, whose questions are made by RULER's rules."""

ENTRIES = {"measures": {"ruler": "bench.parts.long_input.ruler:Ruler"}}
