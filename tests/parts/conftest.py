"""Tests of a part that is not there, or that needs one that is not there, are not collected."""

from pathlib import Path

from bench.catalog.parts import found_parts

collect_ignore = [
    folder.name
    for folder in Path(__file__).parent.iterdir()
    if folder.is_dir() and folder.name not in found_parts()
]
