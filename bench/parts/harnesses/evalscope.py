"""Folders of EvalScope: reports/MODEL/DATASET.json, and reviews/MODEL/DATASET_SUBSET.jsonl with the
scores of answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import yaml

from bench.parts.harnesses.evaluation import (
    FAULTS,
    Evaluation,
    Harness,
    Question,
    add_lines,
    check_size,
    facts,
    read_results,
    time_of,
)
from bench.system import digests
from methods.contract.errors import UserError


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML without its merge keys, which a small file can nest to any number of values."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Keep a merge key. No constructor takes one, so the file is refused."""


class EvalScope(Harness):
    """Folders of EvalScope."""

    title: ClassVar[str] = "EvalScope"
    how: ClassVar[str] = "evalscope eval, which writes a folder reviews/"

    def find(self, folder: Path) -> list[Path]:
        return [
            file
            for file in folder.rglob("reports/*/*.json")
            if file.is_file() and _reviews(file).is_dir()
        ]

    def read(self, report: Path) -> Iterator[Evaluation]:
        about = read_results(report, "metrics", list)
        name = str(about.get("dataset_name") or report.stem)
        home = report.parents[2]
        run = _read_run(home)
        version = _inner(run, "evaluation_identity", "benchmarks", name, "evaluation_version")
        settings = {
            "shots": _inner(run, "resolved_benchmarks", name, "few_shot_num"),
            "generation_config": run.get("generation_config"),
        }
        for subset in sorted(_subsets(about)):
            file = _reviews(report) / report.parent.name / f"{name}_{subset}.jsonl"
            if file.is_file():
                task = name if subset == "default" else f"{name}/{subset}"
                found = Evaluation(
                    task,
                    str(version or ""),
                    settings,
                    _directions(about),
                    harness="EvalScope",
                    about=facts(about.get("model_name"), run.get("evalscope_version")),
                    # By default a run has a folder that is named by its time.
                    made=time_of(report, home.name),
                )
                add_lines(file, "EvalScope", partial(_add, found))
                yield found


def _reviews(report: Path) -> Path:
    return report.parents[2] / "reviews"


def _read_run(home: Path) -> Mapping[str, Any]:
    """Return the settings of the run, or nothing if it kept none. Raise UserError if the file is
    damaged."""
    files = [file for file in home.glob("configs/task_config*.yaml") if file.is_file()]
    file = min(files, default=None)
    try:
        run = yaml.load(file.read_bytes(), _Loader) if file else None
        check_size(run)
    except (*FAULTS, yaml.YAMLError) as fault:
        raise UserError(
            f"{file} cannot be read ({' '.join(str(fault).split())}): measure it again"
        ) from None
    return run if isinstance(run, dict) else {}


def _inner(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _subsets(about: Mapping[str, Any]) -> set[str]:
    """Return the names of the subsets that have questions."""
    return {
        str(subset.get("name"))
        for metric in about["metrics"]
        for category in metric.get("categories", ())
        for subset in category.get("subsets", ())
        if not subset.get("is_aggregate")
    }


def _directions(about: Mapping[str, Any]) -> dict[str, bool]:
    return {
        str(_inner(metric, "identity", "name")): _inner(metric, "semantics", "direction")
        != "lower_is_better"
        for metric in about["metrics"]
    }


def _add(evaluation: Evaluation, row: Mapping[str, Any]) -> None:
    turns = [[turn["role"], turn["content"]] for turn in row["messages"]]
    asked = turns[
        : next((i for i, (role, _) in enumerate(turns) if role == "assistant"), len(turns))
    ]
    target = digests.of(row.get("target"))
    user = [content for role, content in asked if role == "user"]
    values = row["sample_score"]["score"]["value"]
    evaluation.add(Question(digests.of(user[-1:]), digests.of(asked), target), "", values)
    for name in values:
        evaluation.higher.setdefault(name, True)
