"""Export a results folder in the format of another tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.export import every_eval_ever, lm_eval
from bench.export.result_sets import ModelResults, group_by_model
from bench.results.store import ReadOnlyStore
from bench.system.files import atomic_folder
from methods.errors import UserError

RESULT_FORMATS: dict[str, Callable[[ModelResults, str], dict[str, str]]] = {
    "eee": every_eval_ever.documents,
    "lm-eval": lm_eval.documents,
}


def export_results(results: Path, format_: str, out: Path, organization: str) -> str:
    """Write the newest records of a folder to the new folder `out`. Return a sentence. organization: name of the evaluator."""
    store = ReadOnlyStore(results)
    models, skipped = group_by_model(store.verified())
    if store.damaged:
        raise UserError(f"{store.damaged[0]}: delete it to continue without it")
    files: dict[str, str] = {}
    for model in models:
        own = RESULT_FORMATS[format_](model, organization)
        if taken := min(files.keys() & own, default=""):
            raise UserError(
                f"two models of {str(results)!r} would have the file {taken}: keep each in a results folder"
            )
        files |= own
    if not files:
        raise UserError(
            f"results folder {str(results)!r} has no number that {format_} can represent: run bench run first"
        )
    with atomic_folder(out) as workdir:
        for name, text in files.items():
            path = workdir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    counts = ", ".join(f"{n} {status}" for status, n in sorted(skipped.items()))
    return f"{out}: {len(files)} files, {len(models)} models" + (
        f"; skipped, without a number: {counts}" if counts else ""
    )
