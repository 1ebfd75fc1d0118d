"""What every method and quantizer owes its caller, as checks that its author can run.

bench conformance NAME
pytest --pyargs bench.conformance -k NAME
"""
