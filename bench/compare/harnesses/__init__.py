"""Folders of other harnesses. Each module reads those of one harness, and defines it as HARNESS."""
