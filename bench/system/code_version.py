"""Version of the code that runs. Two installations with the same text run the same code."""

from __future__ import annotations

import hashlib
from functools import cache

from bench.system.interpreter import OWN_PACKAGES, ROOT
from bench.system.provenance import VERSION


@cache
def describe_code() -> str:
    """Return the version of this package and eight digits of a digest of its source files, read at the first call."""
    digest = hashlib.sha256()
    for package in OWN_PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py"), key=lambda f: f.relative_to(ROOT).parts):
            name = file.relative_to(ROOT).as_posix()
            digest.update(f"{name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"{VERSION} (code {digest.hexdigest()[:8]})"
