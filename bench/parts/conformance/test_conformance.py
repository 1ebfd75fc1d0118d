"""Checks as tests: pytest --pyargs bench.parts.conformance -k NAME. Without -k they run for the
whole catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.catalog import registry
from bench.parts.conformance.checks import CHECKS, Check
from bench.parts.conformance.subject import sample
from methods.contract.errors import Skipped, UserError
from methods.contract.info import Does

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet

STAGE_KINDS = ("methods", "quantizers")


def names() -> list[ParameterSet]:
    """Return every method and quantizer. One that refines another stage gets `from=magnitude`."""
    found = []
    for kind in STAGE_KINDS:
        for name, entry in registry.entries(kind).items():
            typed = f"{name}:from=magnitude" if Does.REFINES in entry.does else name
            if entry.target:
                found.append(pytest.param(kind, typed, id=name))
    return found


@pytest.mark.parametrize(("kind", "name"), names())
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(kind: str, name: str, check: Check) -> None:
    try:
        with sample(name, kind) as subject:
            check(subject)
    except Skipped as why:
        pytest.skip(str(why))
    except UserError as fault:
        pytest.fail(str(fault), pytrace=False)
