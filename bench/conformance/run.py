"""Run the checks on a method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil

from bench.conformance.checks import CHECKS, row
from bench.conformance.subject import sample


def rows(text: str, kind: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each check: its state, and the fault that it found.

    Raises:
        UserError: the method cannot be built.
        Skipped: it cannot run here.
    """
    for check in CHECKS:
        # Each check gets a new subject, which no other check has changed.
        with sample(text, kind) as subject:
            before = set(psutil.Process().children(recursive=True))
            try:
                found = row(check, subject)
            finally:
                for left in set(psutil.Process().children(recursive=True)) - before:
                    left.kill()
        yield found
