"""`bench export --format eee` and `lm-eval`: a results folder in a format of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.export import every_eval_ever, lm_eval
from bench.export.result_sets import ModelResults, group_by_model
from bench.results.store import Store
from bench.system.files import atomic_folder
from methods.errors import UserError

RESULT_FORMATS: dict[str, Callable[[ModelResults, str], dict[str, str]]] = {
    "eee": every_eval_ever.documents,
    "lm-eval": lm_eval.documents,
}


def export_results(results: Path, format_: str, out: Path, organization: str) -> str:
    """Write the newest records of a results folder into the folder `out`; returns a sentence for the user.

    organization: who ran them, for those who publish them.

    Raises:
        UserError: no such folder, a damaged record, nothing to export, or `out` is taken.
    """
    store = Store(results, write=False)
    found, left = group_by_model(store)
    if store.moved:
        raise UserError(f"{store.moved[0]}: run the same command again to go on without it")
    files: dict[str, str] = {}
    for line in found:
        files |= RESULT_FORMATS[format_](line, organization)
    if not files:
        raise UserError(f"results folder {str(results)!r} has no number that {format_} has a place for: run bench run")
    with atomic_folder(out) as room:
        for name, text in files.items():
            path = room / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    without = ", ".join(f"{n} {status}" for status, n in sorted(left.items()))
    return f"{out}: {len(files)} files, {len(found)} models" + (
        f"; without a number, and left out: {without}" if without else ""
    )
