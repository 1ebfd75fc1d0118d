"""lm-eval's results JSON, as its own runs save it: one file a model, read by its tables and converters."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from bench.export.result_sets import OURS, Line, data, numbers, task
from bench.inputs.tasks import BUILTIN_TASKS, TASK_FILES
from bench.results.record import Record

NAMED = r"[\"<>:/|\\?*\[\]]+"
"""What lm-eval replaces in a model's name to make a folder of it."""


def documents(line: Line, organization: str) -> dict[str, str]:
    """Path -> JSON, one of each number of questions that tasks were cut to. organization: has no place in it.

    Corpora stand beside tasks, under the name of their protocol, which is no task of lm-eval's: its `wikitext` counts
    words. What is counted on weights alone is no evaluation, and left out.
    """
    limits: dict[int | None, list[Record]] = {}
    for record in line.records:
        if task(record):
            limits.setdefault(_config(record).get("limit"), []).append(record)
    folder = re.sub(NAMED, "__", line.name)
    out = {}
    for i, limit in enumerate(sorted(limits, key=lambda n: n or 0)):
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(line.recorded)) + f".{i:06}"
        told = _document(line, limits[limit], limit)
        out[f"{folder}/results_{stamp}.json"] = json.dumps(told, indent=2, allow_nan=False) + "\n"
    return out


def _document(line: Line, records: list[Record], limit: int | None) -> dict[str, Any]:
    tasks: dict[str, list[Record]] = {}
    for record in records:
        tasks.setdefault(task(record), []).append(record)
    first = records[0]
    versions = first.provenance.get("versions") or {}
    batches = {str(b) for r in records if (b := _config(r).get("batch")) is not None}
    config = {
        "model": "hf",
        "model_args": {"pretrained": line.name, "dtype": line.identity.dtype},
        "model_dtype": line.identity.dtype,
        "batch_size": batches.pop() if len(batches) == 1 else None,
        "device": line.identity.device,
        "limit": limit,
    }
    return {
        "results": {name: _results(name, group) for name, group in tasks.items()},
        "group_subtasks": {name: [] for name in tasks},
        "configs": {name: _task_config(name, group[0]) for name, group in tasks.items()},
        "versions": {name: _version(group[0]) for name, group in tasks.items()},
        "n-shot": {name: 0 for name in tasks if name in BUILTIN_TASKS or name in TASK_FILES},
        "higher_is_better": {
            name: {r.metric: r.better == "higher" for x in group for r, _ in numbers(x)}
            for name, group in tasks.items()
        },
        "n-samples": {name: _counts(group, limit) for name, group in tasks.items()},
        "config": config,
        "git_hash": (first.provenance.get("commit") or {}).get("id"),
        "date": float(line.recorded),
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": versions.get("lm_eval"),
        "model_source": "hf",
        "model_name": line.name,
        "model_name_sanitized": re.sub(NAMED, "__", line.name),
        OURS: {
            "version": line.version,
            "identity": line.identity.model_dump(mode="json", exclude={"measure", "protocol"}),
            "records": [r.key for r in records],
        },
    }


def _config(record: Record) -> dict[str, Any]:
    measure = record.key_inputs.get("measure") or {}
    return dict(measure.get("config") or {}) if record.identity.measure == "zeroshot" else {}


def _results(name: str, records: list[Record]) -> dict[str, Any]:
    """lm-eval's keys are `metric,filter`; a standard error that nobody has is "N/A"."""
    told: dict[str, Any] = {"name": name, "alias": name}
    told["sample_len"] = max(r.n or 0 for record in records for r, _ in numbers(record))
    for record in records:
        for reading, value in numbers(record):
            told[f"{reading.metric},none"] = value
            told[f"{reading.metric}_stderr,none"] = "N/A" if reading.stderr is None else reading.stderr
    return told


def _counts(records: list[Record], limit: int | None) -> dict[str, int]:
    """How many questions there would have been without a limit, no record says."""
    count = max(r.n or 0 for record in records for r, _ in numbers(record))
    return {"effective": count} if limit else {"original": count, "effective": count}


def _task_config(name: str, record: Record) -> dict[str, Any]:
    dataset, hub, _ = data(record)
    told = {"task": name, "dataset_path": hub or dataset, "metadata": {"version": _version(record)}}
    return told | ({"num_fewshot": 0} if name in BUILTIN_TASKS or name in TASK_FILES else {})


def _version(record: Record) -> str:
    """Of the task; of cast-bench where it is none of lm-eval's."""
    if version := _config(record).get("version"):
        return str(version)
    return f"{OURS} {(record.provenance.get('versions') or {}).get(OURS, 'unknown')}"
