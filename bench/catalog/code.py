"""Digests of the code that decides what a method, quantizer or measure gives."""

from __future__ import annotations

from bench.catalog.declarations import CatalogEntry
from bench.system import digests, environments
from bench.system.source_digest import digest_source


def method_digest(entry: CatalogEntry) -> str:
    """Return the digest of a method's code, and of the pinned versions of its environment."""
    code = digest_source(entry.module)
    return digests.of([code, environments.pins(entry.environment)]) if entry.environment else code


def measure_digest(entry: CatalogEntry) -> str:
    """Return the digest of a measure's code."""
    return digest_source(entry.module)
