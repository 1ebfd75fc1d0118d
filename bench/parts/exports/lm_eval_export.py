"""lm-eval's results JSON: one file for each model, for lm-eval's own tables and converters."""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

from bench.formats.contract import ModelResults
from bench.inputs.tasks import BUILTIN_TASKS, TASK_FILES
from bench.parts.exports.result_sets import OURS, data_of, task_of, values_of
from bench.results.record import Record
from bench.system.grouping import group_by

UNSAFE_CHARACTERS = r"[\"<>:/|\\?*\[\]]+"
"""Characters that lm-eval replaces in a model's name to make a folder name."""
FILTERED = re.compile(r"(exact_match|f1|bleu|pass(?:@|_at_)\d+)_(.+)")
"""Metric and filter in the name of a reading. lm-eval filters only the metrics of generated
answers."""


def documents(model: ModelResults) -> dict[str, str]:
    """Return JSON by path, one document for each limit of questions, prompt and rule of BOS.

    A perplexity has the name of its protocol, because lm-eval's task `wikitext` normalizes by
    words. Metrics that are counted in the weights are left out, because they are no evaluations.
    """

    def protocol(record: Record) -> tuple[int, str, str]:
        return (
            _config(record).get("limit") or 0,
            record.identity.protocol.prompt,
            str(record.identity.protocol.bos),
        )

    groups = group_by(filter(task_of, model.records), protocol)
    folder = re.sub(UNSAFE_CHARACTERS, "__", model.name)
    out = {}
    for i, (found, records) in enumerate(sorted(groups.items(), key=lambda group: group[0])):
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(model.recorded)) + f".{i:06}"
        document = _document(model, records, found[0] or None)
        out[f"{folder}/results_{stamp}.json"] = (
            json.dumps(document, indent=2, allow_nan=False) + "\n"
        )
    return out


def _document(model: ModelResults, records: list[Record], limit: int | None) -> dict[str, Any]:
    tasks = group_by(records, task_of)
    first = records[0]
    batches = {str(b) for r in records if (b := _config(r).get("batch")) is not None}
    config = {
        "model": "hf",
        "model_args": {"pretrained": model.name, "dtype": model.identity.computed_in},
        "model_dtype": model.identity.computed_in,
        "batch_size": batches.pop() if len(batches) == 1 else None,
        "device": model.identity.device,
        "limit": limit,
    }
    prompt, system = _config(first), str(_config(first).get("system_instruction") or "")
    if prompt.get("gen_kwargs"):
        config["gen_kwargs"] = prompt["gen_kwargs"]
    shots = {name: _shots(name, group[0]) for name, group in tasks.items()}
    return {
        "results": {name: _results(name, group) for name, group in tasks.items()},
        "group_subtasks": {name: [] for name in tasks},
        "configs": {name: _task_config(name, group[0]) for name, group in tasks.items()},
        "versions": {name: _version(group[0]) for name, group in tasks.items()},
        "n-shot": {name: n for name, n in shots.items() if n is not None},
        "higher_is_better": {name: _directions(group) for name, group in tasks.items()},
        "n-samples": {name: _counts(group, limit) for name, group in tasks.items()},
        "config": config,
        "git_hash": first.commit_id or None,
        "date": float(model.recorded),
        "transformers_version": first.versions.get("transformers"),
        "lm_eval_version": first.versions.get("lm_eval"),
        "model_source": "hf",
        "model_name": model.name,
        "model_name_sanitized": re.sub(UNSAFE_CHARACTERS, "__", model.name),
        "system_instruction": system or None,
        "system_instruction_sha": hashlib.sha256(system.encode()).hexdigest() if system else None,
        "fewshot_as_multiturn": bool(prompt.get("apply_chat_template")),
        OURS: {
            "version": model.version,
            "identity": model.identity.model_dump(mode="json", exclude={"measure", "protocol"}),
            "records": [r.key for r in records],
            # lm-eval has no field for "with a chat template" but the template, which is in no
            # record.
            "prompt": first.identity.protocol.prompt,
        },
    }


def _directions(records: list[Record]) -> dict[str, bool]:
    found = {}
    for record in records:
        for reading, _ in values_of(record):
            found[split_filter(reading.metric)[0]] = reading.better == "higher"
    return found


def _config(record: Record) -> dict[str, Any]:
    measure = record.key_inputs.get("measure") or {}
    return dict(measure.get("config") or {}) if record.identity.subject == "task" else {}


def _results(name: str, records: list[Record]) -> dict[str, Any]:
    """Return the results of a task under lm-eval's keys, `metric,filter`. A missing standard error
    is "N/A"."""
    results: dict[str, Any] = {"name": name, "alias": name}
    results["sample_len"] = max(r.n or 0 for record in records for r, _ in values_of(record))
    for record in records:
        for reading, value in values_of(record):
            metric, filter_ = split_filter(reading.metric)
            results[f"{metric},{filter_}"] = value
            results[f"{metric}_stderr,{filter_}"] = (
                "N/A" if reading.stderr is None else reading.stderr
            )
    return results


def split_filter(name: str) -> tuple[str, str]:
    """Return metric and filter of a reading, whose name is METRIC or METRIC_FILTER."""
    match = FILTERED.fullmatch(name)
    return (match[1], match[2]) if match else (name, "none")


def _counts(records: list[Record], limit: int | None) -> dict[str, int]:
    """Return the numbers of questions. Records with a limit do not contain the task's number."""
    count = max(r.n or 0 for record in records for r, _ in values_of(record))
    return {"effective": count} if limit else {"original": count, "effective": count}


def _task_config(name: str, record: Record) -> dict[str, Any]:
    dataset, hub, _ = data_of(record)
    config: dict[str, Any] = {
        "task": name,
        "dataset_path": hub or dataset,
        "metadata": {"version": _version(record)},
    }
    shots = _shots(name, record)
    if shots is not None:
        config["num_fewshot"] = shots
    return config


def _shots(name: str, record: Record) -> int | None:
    """Return the number of examples before each question. None if only the task's file says it."""
    config = _config(record)
    usual = 0 if name in BUILTIN_TASKS or name in TASK_FILES else None
    return config.get("num_fewshot", config.get("shots", usual))


def _version(record: Record) -> str:
    """Return the version of the task, or that of cast-bench for one of its protocols."""
    version = _config(record).get("version")
    if version:
        return str(version)
    return f"{OURS} {record.versions.get(OURS, 'unknown')}"
