"""Results folders that a leaderboard and a pick read if none is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.comparing import result_arguments
from bench.comparing.result_set import ResultSet
from bench.reporting import searches
from bench.results.store import RESULTS
from methods.contract.errors import UserError

PUBLISHED = Path(__file__).parent.parent / "assets" / "published"
"""Rows from papers."""


def results_folders() -> list[Path]:
    """Return all results folders except RESULTS, which `bench run` fills by default. Return RESULTS
    if it is alone."""
    root = RESULTS.parent
    folders = sorted(p.parent for p in root.glob("*/records") if p.is_dir())
    others = [p for p in folders if p != RESULTS] or folders
    if not others:
        raise UserError(
            f"no results folder in {str(root)!r}: name one with --results, or run bench run first"
        )
    return others


def leaves_local_out() -> bool:
    """Return whether `results_folders` leaves records of RESULTS out."""
    return RESULTS not in results_folders() and any((RESULTS / "records").glob("*.json"))


def read_boards(folders: Sequence[Path], model: str) -> list[ResultSet]:
    """Read the results folders that are no searches, to show one model. Raise UserError if all are
    searches."""
    results = [result_arguments.read(path, model=model) for path in folders]
    results = [one for one in results if not searches.is_search(one)]
    if not results:
        raise UserError(
            f"only searches in {', '.join(map(str, folders))}: name another results folder with "
            "--results"
        )
    return results
