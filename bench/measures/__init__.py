"""Measures, a file each. bench.measures.contract explains how to write one."""
