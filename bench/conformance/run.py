"""Run the checks on a method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil

from bench.conformance.checks import CHECKS, Check, NotConformant, describe
from bench.conformance.subject import Subject, sample


def rows(text: str, kind: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each check: its state, and the fault that it found.

    Raises:
        UserError: the method cannot be built.
        Skipped: it cannot run here.
    """
    for check in CHECKS:
        # Each check gets a new subject, which no other check has changed.
        with sample(text, kind) as subject:
            state, detail = _result(check, subject)
        yield {"check": describe(check), "state": state, "detail": detail}


def _result(check: Check, subject: Subject) -> tuple[str, str]:
    before = set(psutil.Process().children(recursive=True))
    try:
        check(subject)
    except NotConformant as fault:
        return "failed", str(fault)
    except Exception as fault:  # noqa: BLE001  (a method may raise anything)
        return "failed", f"{type(fault).__name__}: {' '.join(str(fault).split())}"
    finally:
        for left in set(psutil.Process().children(recursive=True)) - before:
            left.kill()
    return "ok", ""
