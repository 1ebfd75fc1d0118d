"""Export a results folder in the format of another tool."""

from __future__ import annotations

from pathlib import Path

from bench.catalog import registry
from bench.formats.contract import Options, ResultsFormat
from bench.parts.exports.result_sets import group_by_model
from bench.results.store import ReadOnlyStore
from bench.system.files import atomic_folder
from methods.contract.errors import UserError


def export_results(
    results: Path, name: str, format_: ResultsFormat, out: Path, options: Options
) -> str:
    """Write the newest records of a folder to the new folder `out`. Return a sentence. name: that
    of the format."""
    store = ReadOnlyStore(results)
    models, skipped = group_by_model(store)
    if store.damaged:
        raise UserError(f"{store.damaged[0]}: delete it to continue without it")
    files: dict[str, str] = {}
    for model in models:
        with registry.guarded(registry.lookup("exports", name)):
            own = format_.documents(model, options)
        taken = min(files.keys() & own, default="")
        if taken:
            raise UserError(
                f"two models of {str(results)!r} would have the file {taken}: keep each in a "
                "results folder"
            )
        files.update(own)
    if not files:
        raise UserError(
            f"results folder {str(results)!r} has no number that {name} can represent: run bench "
            "run first"
        )
    with atomic_folder(out) as workdir:
        for relative, text in files.items():
            path = workdir / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    counts = ", ".join(f"{n} {status}" for status, n in sorted(skipped.items()))
    left_out = f"; skipped, without a number: {counts}" if counts else ""
    return f"{out}: {len(files)} files, {len(models)} models{left_out}"
