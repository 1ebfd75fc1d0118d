"""Checks of every method and quantizer, for their authors.

bench conformance NAME
pytest --pyargs bench.parts.conformance -k NAME
"""

ENTRIES = {"commands": {"conformance": "bench.parts.conformance.command:conformance"}}
