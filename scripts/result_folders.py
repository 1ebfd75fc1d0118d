"""Results folders, each read once for all pages."""

from __future__ import annotations

from functools import cache

from reference import ROOT

from bench.compare import result_arguments
from bench.compare.result_set import ResultSet
from bench.reporting import board


@cache
def read(folder: str) -> ResultSet:
    return result_arguments.read(ROOT / folder).with_cache()


def merge(folders: str) -> ResultSet:
    """Merge folders, separated by commas: keep the newest record of each identity."""
    return board.merge([read(folder) for folder in folders.split(",")])
