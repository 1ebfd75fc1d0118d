"""Run the checks on a method, and say what came of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil

from bench.conformance.checks import CHECKS, Check, NotConformant, describe
from bench.conformance.subject import Subject, sample


def rows(text: str, kind: str) -> Iterator[dict[str, Any]]:
    """A row a check: whether it holds, and what was found.

    Raises:
        UserError: the method cannot be built.
        Skipped: it cannot run here.
    """
    for check in CHECKS:
        with sample(text, kind) as subject:  # a new one, which no other check has written to
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
