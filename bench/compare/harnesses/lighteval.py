"""Folders of lighteval: results/MODEL/results_DATE.json, and details/MODEL/DATE/details_TASK_DATE.parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.compare.harnesses.evaluation import Evaluation, Harness, Question, facts, read_results, time_in_name, time_of
from bench.system import digests
from methods.errors import UserError


def _find(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("results_*.json") if file.is_file() and _details(file)]


def _details(results: Path) -> Path | None:
    return next((p / "details" for p in results.parents if (p / "details").is_dir()), None)


def _read(results: Path) -> Iterator[Evaluation]:
    import pandas

    about = read_results(results, "config_general", dict)
    general, versions = about["config_general"], about.get("versions")
    stamp, root = results.stem.removeprefix("results_"), _details(results)
    for file in sorted(root.rglob(f"details_*_{stamp}.parquet")) if root else ():
        task = file.stem.removeprefix("details_").removesuffix(f"_{stamp}")
        name, _, shots = task.rpartition("|")
        found = Evaluation(
            name or task,
            str((versions if isinstance(versions, dict) else {}).get(task)),
            {"shots": shots or None},
            harness="lighteval",
            about=facts(general.get("model_name"), general.get("lighteval_sha")),
            made=time_of(results, time_in_name(stamp)),
        )
        try:
            rows = pandas.read_parquet(file, columns=["doc", "metric"])
            for doc, metric in zip(rows["doc"], rows["metric"], strict=True):
                query, instruction, gold = (digests.of(str(doc.get(k))) for k in ("query", "instruction", "gold_index"))
                choices = digests.of([str(c) for c in doc.get("choices", ())])
                question = Question(digests.of([query, choices]), digests.of([query, instruction]), gold)
                found.add(question, "", metric)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as fault:
            raise UserError(f"{file} cannot be read as details of lighteval ({fault}): measure it again") from None
        found.higher = {name: True for scores in found.scores.values() for name in scores}
        yield found


HARNESS = Harness("lighteval", "lighteval --save-details", _find, _read)
