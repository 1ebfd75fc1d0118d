"""lm-eval's results JSON, as lm-eval saves it: one file for each model, for its own tables and converters."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from bench.export.result_sets import OURS, ModelResults, data_of, task_of, values_of
from bench.inputs.tasks import BUILTIN_TASKS, TASK_FILES
from bench.results.record import Record

UNSAFE_CHARACTERS = r"[\"<>:/|\\?*\[\]]+"
"""What lm-eval replaces in a model's name to make a folder name."""


def documents(model: ModelResults, organization: str) -> dict[str, str]:
    """JSON by path, one document for each limit of questions per task. organization: not part of the format.

    Perplexities are included under the name of their protocol. It is not the name of a task of lm-eval: lm-eval's
    `wikitext` is normalized by words. Metrics that are counted in the weights are not evaluations, and are left out.
    """
    limits: dict[int | None, list[Record]] = {}
    for record in model.records:
        if task_of(record):
            limits.setdefault(_config(record).get("limit"), []).append(record)
    folder = re.sub(UNSAFE_CHARACTERS, "__", model.name)
    out = {}
    for i, limit in enumerate(sorted(limits, key=lambda n: n or 0)):
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(model.recorded)) + f".{i:06}"
        document = _document(model, limits[limit], limit)
        out[f"{folder}/results_{stamp}.json"] = json.dumps(document, indent=2, allow_nan=False) + "\n"
    return out


def _document(model: ModelResults, records: list[Record], limit: int | None) -> dict[str, Any]:
    tasks: dict[str, list[Record]] = {}
    for record in records:
        tasks.setdefault(task_of(record), []).append(record)
    first = records[0]
    batches = {str(b) for r in records if (b := _config(r).get("batch")) is not None}
    config = {
        "model": "hf",
        "model_args": {"pretrained": model.name, "dtype": model.identity.dtype},
        "model_dtype": model.identity.dtype,
        "batch_size": batches.pop() if len(batches) == 1 else None,
        "device": model.identity.device,
        "limit": limit,
    }
    return {
        "results": {name: _results(name, group) for name, group in tasks.items()},
        "group_subtasks": {name: [] for name in tasks},
        "configs": {name: _task_config(name, group[0]) for name, group in tasks.items()},
        "versions": {name: _version(group[0]) for name, group in tasks.items()},
        "n-shot": {name: 0 for name in tasks if name in BUILTIN_TASKS or name in TASK_FILES},
        "higher_is_better": {
            name: {r.metric: r.better == "higher" for x in group for r, _ in values_of(x)}
            for name, group in tasks.items()
        },
        "n-samples": {name: _counts(group, limit) for name, group in tasks.items()},
        "config": config,
        "git_hash": first.commit_id or None,
        "date": float(model.recorded),
        "transformers_version": first.versions.get("transformers"),
        "lm_eval_version": first.versions.get("lm_eval"),
        "model_source": "hf",
        "model_name": model.name,
        "model_name_sanitized": re.sub(UNSAFE_CHARACTERS, "__", model.name),
        OURS: {
            "version": model.version,
            "identity": model.identity.model_dump(mode="json", exclude={"measure", "protocol"}),
            "records": [r.key for r in records],
        },
    }


def _config(record: Record) -> dict[str, Any]:
    measure = record.key_inputs.get("measure") or {}
    return dict(measure.get("config") or {}) if record.identity.measure == "zeroshot" else {}


def _results(name: str, records: list[Record]) -> dict[str, Any]:
    """lm-eval's keys are `metric,filter`; a missing standard error is "N/A"."""
    results: dict[str, Any] = {"name": name, "alias": name}
    results["sample_len"] = max(r.n or 0 for record in records for r, _ in values_of(record))
    for record in records:
        for reading, value in values_of(record):
            results[f"{reading.metric},none"] = value
            results[f"{reading.metric}_stderr,none"] = "N/A" if reading.stderr is None else reading.stderr
    return results


def _counts(records: list[Record], limit: int | None) -> dict[str, int]:
    """Numbers of questions. With a limit, the records do not say how many the task has."""
    count = max(r.n or 0 for record in records for r, _ in values_of(record))
    return {"effective": count} if limit else {"original": count, "effective": count}


def _task_config(name: str, record: Record) -> dict[str, Any]:
    dataset, hub, _ = data_of(record)
    config = {"task": name, "dataset_path": hub or dataset, "metadata": {"version": _version(record)}}
    return config | ({"num_fewshot": 0} if name in BUILTIN_TASKS or name in TASK_FILES else {})


def _version(record: Record) -> str:
    """The version of the task; for a protocol of cast-bench, that of cast-bench."""
    if version := _config(record).get("version"):
        return str(version)
    return f"{OURS} {record.versions.get(OURS, 'unknown')}"
