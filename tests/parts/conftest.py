"""Tests of a part that is not there, or that needs one that is not there, are not collected."""

from pathlib import Path

import pytest

from bench.catalog.parts import found_parts
from helpers import runs

collect_ignore = [
    folder.name
    for folder in Path(__file__).parent.iterdir()
    if folder.is_dir() and folder.name not in found_parts()
]


@pytest.fixture
def kernel(monkeypatch):
    """The native kernel, compiled once for all modules. Skip without one."""
    from bench.parts.packed24 import native

    with monkeypatch.context() as patch:
        patch.setenv("CAST_BENCH_CACHE", str(runs.USUAL))
        try:
            return native.load()
        except native.NoKernel as why:
            pytest.skip(str(why))
