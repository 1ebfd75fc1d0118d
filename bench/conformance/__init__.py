"""Checks of every method and quantizer, for their authors.

bench conformance NAME
pytest --pyargs bench.conformance -k NAME
"""
