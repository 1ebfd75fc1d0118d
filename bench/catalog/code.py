"""Digests of the code that decides what a method, quantizer or measure gives."""

from __future__ import annotations

from bench.catalog.declarations import CatalogEntry
from bench.catalog.entries import CODECS, READERS
from bench.system import digests, environments
from bench.system.source_digest import digest_source
from methods.contract.info import Does


def method_digest(entry: CatalogEntry) -> str:
    """Return the digest of a method's code, and of the pinned versions of its environment."""
    code = digest_source(*_modules(entry))
    return digests.of([code, environments.pins(entry.environment)]) if entry.environment else code


def measure_digest(entry: CatalogEntry) -> str:
    """Return the digest of a measure's code."""
    return digest_source(entry.module)


def _modules(entry: CatalogEntry) -> list[str]:
    """Return the modules that decide what a method gives."""
    if Does.IMPORTS in entry.does:
        return [entry.module, *reading_modules()]
    return [entry.module]


def reading_modules() -> list[str]:
    """Return the modules of readers and codecs, which are found in the catalog when a model is
    opened."""
    return sorted({each.module for each in (*READERS.values(), *CODECS.values())})
