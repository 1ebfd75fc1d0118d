"""The tests of a part that the catalog leaves out, because a part that it needs is not there, are
ignored."""

from pathlib import Path

from bench.catalog.parts import found_parts

collect_ignore = [
    path.name for path in Path(__file__).parent.glob("[!_]*/") if path.name not in found_parts()
]
