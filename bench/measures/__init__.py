"""Measures: one file each. To write one of your own, see bench.measures.contract."""
