"""Folders of lighteval: results/MODEL/results_DATE.json, and
details/MODEL/DATE/details_TASK_DATE.parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from bench.parts.harnesses.evaluation import (
    FAULTS,
    Evaluation,
    Harness,
    Question,
    facts,
    read_results,
    time_in_name,
    time_of,
)
from bench.system import digests
from bench.system.bounded import bounded_memory
from methods.contract.errors import UserError, first_line

COLUMNS = ("doc", "metric")
ROWS, BYTES = 64, 2**30
"""Number of rows that are unpacked at once, and memory in bytes that all of it may take."""


class Lighteval(Harness):
    """Folders of lighteval."""

    title: ClassVar[str] = "lighteval"
    how: ClassVar[str] = "lighteval --save-details"

    def find(self, folder: Path) -> list[Path]:
        return [
            file for file in folder.rglob("results_*.json") if file.is_file() and _details(file)
        ]

    def read(self, results: Path) -> Iterator[Evaluation]:
        about = read_results(results, "config_general", dict)
        general, versions = about["config_general"], about.get("versions")
        if not isinstance(versions, dict):
            versions = {}
        stamp, root = results.stem.removeprefix("results_"), _details(results)
        if not root:
            return
        for file in sorted(root.rglob(f"details_*_{stamp}.parquet")):
            task = file.stem.removeprefix("details_").removesuffix(f"_{stamp}")
            name, _, shots = task.rpartition("|")
            found = Evaluation(
                name or task,
                str(versions.get(task)),
                {"shots": shots or None},
                harness="lighteval",
                about=facts(general.get("model_name"), general.get("lighteval_sha")),
                made=time_of(results, time_in_name(stamp)),
            )
            try:
                for doc, metric in _rows(file):
                    query, instruction, gold = (
                        digests.of(str(doc.get(k))) for k in ("query", "instruction", "gold_index")
                    )
                    choices = digests.of([str(c) for c in doc.get("choices", ())])
                    question = Question(
                        digests.of([query, choices]), digests.of([query, instruction]), gold
                    )
                    found.add(question, "", metric)
            except FAULTS as fault:
                reason = first_line(fault)
                raise UserError(
                    f"{file} cannot be read as details of lighteval ({reason}): measure it again"
                ) from None
            found.higher = {name: True for scores in found.scores.values() for name in scores}
            yield found


def _details(results: Path) -> Path | None:
    return next((p / "details" for p in results.parents if (p / "details").is_dir()), None)


def _rows(file: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the document and the scores of each row."""
    import pyarrow
    from pyarrow import parquet

    table = parquet.ParquetFile(pyarrow.BufferReader(file.read_bytes()))
    # A dictionary holds a text once, and each row that has it unpacks it again.
    with bounded_memory(BYTES):
        for batch in table.iter_batches(ROWS, columns=COLUMNS, use_threads=False):
            rows = batch.to_pandas()
            yield from zip(rows["doc"], rows["metric"], strict=True)
