"""Run the checks on a method, and say what came of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.conformance.checks import CHECKS, NotConformant, describe
from bench.conformance.subject import sample


def rows(text: str, kind: str) -> Iterator[dict[str, Any]]:
    """A row a check: whether it holds, and what was found.

    Raises:
        UserError: the method cannot be built.
        Skipped: it cannot run here.
    """
    with sample(text, kind) as subject:
        for check in CHECKS:
            state, detail = "ok", ""
            try:
                check(subject)
            except NotConformant as fault:
                state, detail = "failed", str(fault)
            except Exception as fault:  # noqa: BLE001  (a method may raise anything)
                state, detail = "failed", f"{type(fault).__name__}: {' '.join(str(fault).split())}"
            yield {"check": describe(check), "state": state, "detail": detail}
