"""Folders of lm-eval: results_DATE.json, and samples_TASK_DATE.jsonl beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from bench.parts.harnesses.evaluation import (
    Evaluation,
    Harness,
    Question,
    add_lines,
    facts,
    read_results,
    time_in_name,
    time_of,
)
from bench.parts.harnesses.lighteval import Lighteval
from bench.system import digests


class LmEval(Harness):
    """Folders of lm-eval."""

    title: ClassVar[str] = "lm-eval"
    how: ClassVar[str] = "lm_eval --log_samples"

    def find(self, folder: Path) -> list[Path]:
        theirs = set(Lighteval().find(folder))
        return [
            file for file in folder.rglob("results_*.json") if file.is_file() and file not in theirs
        ]

    def read(self, results: Path) -> Iterator[Evaluation]:
        about = read_results(results, "results", dict)
        stamp = results.stem.removeprefix("results_")
        for task in about["results"]:
            file = results.parent / f"samples_{task}_{stamp}.jsonl"
            # A group has results and no questions.
            if file.is_file():
                found = _evaluation(task, about)
                found.made = time_of(results, about.get("date"), time_in_name(stamp))
                add_lines(file, "lm-eval", partial(_add, found))
                yield found


def _evaluation(task: str, about: Mapping[str, Any]) -> Evaluation:
    def of(key: str) -> Any:
        value = about.get(key)
        if not isinstance(value, dict):
            return None
        return value.get(task)

    config = about.get("config") if isinstance(about.get("config"), dict) else {}
    settings = {
        "shots": of("n-shot"),
        "chat template": about.get("chat_template_sha"),
        "system instruction": about.get("system_instruction_sha"),
        "gen_kwargs": (config or {}).get("gen_kwargs"),
    }
    higher = of("higher_is_better") or {}
    return Evaluation(
        task,
        str(of("versions")),
        settings,
        {str(k): v is not False for k, v in higher.items()},
        about=facts(about.get("model_name"), about.get("lm_eval_version"), about.get("date")),
    )


def _add(evaluation: Evaluation, row: Mapping[str, Any]) -> None:
    """Add a line: the answer to a question under one filter."""
    part = str(row.get("filter", "none"))
    metrics = row.get("metrics") or [k for k in evaluation.higher if k in row]
    # A line has the log-likelihood under the name of the perplexity that lm-eval computes from all
    # of them.
    scores = {"log_likelihood" if m == "perplexity" else m: row[m] for m in metrics}
    suffix = "" if part == "none" else f"_{part}"
    named = {f"{metric}{suffix}": metric for metric in scores}
    for name, metric in named.items():
        evaluation.higher.setdefault(name, evaluation.higher.get(metric, True))
    evaluation.add(_question(row), part, {name: scores[metric] for name, metric in named.items()})


def _question(row: Mapping[str, Any]) -> Question:
    """Return the digests that lm-eval wrote, or those of the content."""
    names = (("doc_hash", "doc"), ("prompt_hash", "arguments"), ("target_hash", "target"))
    return Question(*(str(row.get(known) or digests.of(row[content])) for known, content in names))
