"""Folders of Every Eval Ever: UUID.json, and UUID_samples.jsonl with the score of each answer by
each metric.

github.com/evaleval/every_eval_ever, eval.schema.json and instance_level_eval.schema.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from bench.parts.harnesses.evaluation import (
    Evaluation,
    Harness,
    Question,
    add_lines,
    facts,
    read_results,
    time_of,
)
from bench.system import digests

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class EveryEvalEver(Harness):
    """Folders of Every Eval Ever."""

    title: ClassVar[str] = "Every Eval Ever"
    how: ClassVar[str] = "its converter with --include_samples"

    def find(self, folder: Path) -> list[Path]:
        return [
            file for file in folder.rglob("*.json") if UUID.fullmatch(file.stem) and file.is_file()
        ]

    def read(self, aggregate: Path) -> Iterator[Evaluation]:
        about = read_results(aggregate, "evaluation_results", list)
        samples = aggregate.with_name(f"{aggregate.stem}_samples.jsonl")
        if not samples.is_file():
            return
        metrics: dict[str, Mapping[str, Any]] = {
            str(result.get("evaluation_result_id")): result.get("metric_config") or {}
            for result in about["evaluation_results"]
        }
        found: dict[str, Evaluation] = {}
        made = time_of(
            aggregate, about.get("evaluation_timestamp"), about.get("retrieved_timestamp")
        )

        def add(row: Mapping[str, Any]) -> None:
            task = str(row["evaluation_name"])
            evaluation = found.setdefault(task, _evaluation(task, about, made))
            result = str(row.get("evaluation_result_id"))
            metric = metrics.get(result, {})
            name = str(metric.get("metric_name") or metric.get("metric_id") or "score")
            evaluation.higher[name] = metric.get("lower_is_better") is not True
            evaluation.add(_question(row), result, {name: row["evaluation"]["score"]})

        add_lines(samples, "Every Eval Ever", add)
        yield from found.values()


def _evaluation(task: str, about: Mapping[str, Any], made: float) -> Evaluation:
    """Return a task without questions. The schema has no version of a task."""
    library, model = (about.get(key) or {} for key in ("eval_library", "model_info"))
    version = " ".join(str(library[key]) for key in ("name", "version") if library.get(key))
    generation = next(
        (
            r.get("generation_config")
            for r in about["evaluation_results"]
            if r.get("evaluation_name") == task
        ),
        None,
    )
    known = facts(model.get("name") or model.get("id"), version)
    settings = {"library": version, "generation_config": generation}
    return Evaluation(task, "", settings, harness="Every Eval Ever", about=known, made=made)


def _question(row: Mapping[str, Any]) -> Question:
    """Return digests of what the model was asked. Turns of the model and of tools are answers."""
    asked = row["input"]
    choices, target = digests.of(asked.get("choices")), digests.of(asked["reference"])
    return Question(
        digests.of([asked["raw"], choices]),
        digests.of(asked.get("formatted") or asked["raw"]),
        target,
    )
