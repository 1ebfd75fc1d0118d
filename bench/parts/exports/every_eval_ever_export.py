"""Every Eval Ever's aggregate schema: one document for each model.

github.com/evaleval/every_eval_ever, eval.schema.json
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from bench.formats.contract import ModelResults
from bench.parts.exports.result_sets import OURS, data_of, recorded_at, values_of
from bench.results import metrics
from bench.results.derive import Items, scores_of
from bench.results.record import ReadingRow, Record

VERSION = "0.3.0"
"""Version of the schema."""


def documents(
    model: ModelResults,
    *,
    availability: str = "",
    items_of: Callable[[Record], Items] | None = None,
) -> dict[str, str]:
    """Return JSON by path in Every Eval Ever's data store. The same records give the same bytes.

    Args:
        availability: that of the weights, "open_weights" if they are published with the results.
            "": open for a dense model of the hub, and unknown for others.
        items_of: reader of a record's questions, which get a line each. None leaves them out.
            Records have neither a question's text nor its answer, so the lines name the question.
    """
    when = str(model.recorded)
    document = {
        "schema_version": VERSION,
        "evaluation_id": f"{OURS}/{model.name}/{when}",
        "evaluation_timestamp": when,
        "retrieved_timestamp": when,
        "source_metadata": {
            "source_name": OURS,
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            # A pruned model's developer is the evaluator.
            "evaluator_relationship": "third_party" if model.is_dense else "first_party",
        },
        "eval_library": {
            "name": "cast_bench",
            "version": model.version,
            "additional_details": _library(model),
        },
        "model_info": _model(model, availability),
        "evaluation_results": [
            _result(record, reading, value)
            for record in model.records
            for reading, value in values_of(record)
            if reading.better
        ],
    }
    digest = hashlib.sha256("".join(r.key for r in model.records).encode()).digest()
    file = uuid.UUID(bytes=digest[:16], version=4)
    developer, _, name = model.name.partition("/")
    stem = f"data/{OURS}/{developer}/{name.replace('/', '_')}/{file}"
    out = {}
    lines = list(_questions(model, document["evaluation_id"], items_of)) if items_of else []
    if lines:
        samples = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        out[f"{stem}_samples.jsonl"] = samples
        document["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": f"{stem}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(samples.encode()).hexdigest(),
            "total_rows": len(lines),
        }
    out[f"{stem}.json"] = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
    return out


def _questions(
    model: ModelResults, evaluation: Any, items_of: Callable[[Record], Items]
) -> Iterator[dict[str, Any]]:
    """Yield a line for each question of a task and metric whose scores are right or wrong."""
    for record in model.records:
        if record.identity.subject != "task" or not record.items:
            continue
        items, protocol = items_of(record), str(record.identity.protocol.label)
        for reading, _ in values_of(record):
            scores = scores_of(reading.metric, record, items)
            if scores is None or not set(scores.tolist()) <= {0.0, 1.0}:
                continue
            for question, score in zip(items.ids.tolist(), scores.tolist(), strict=True):
                yield {
                    "schema_version": f"instance_level_eval_{VERSION}",
                    "evaluation_id": evaluation,
                    "model_id": model.name,
                    "evaluation_name": protocol,
                    "evaluation_result_id": _result_id(record, reading),
                    "sample_id": str(question),
                    "interaction_type": "single_turn",
                    "input": {"raw": f"{protocol}, question {question}", "reference": []},
                    "output": {"raw": []},
                    "answer_attribution": [],
                    "evaluation": {"score": score, "is_correct": score == 1.0},
                    "metadata": {"record": record.key, "text": "not stored"},
                }


def _result_id(record: Record, reading: ReadingRow) -> str:
    return f"{record.identity.measure}/{record.identity.protocol.label}/{reading.metric}"


def _library(model: ModelResults) -> dict[str, str]:
    return {str(k): str(v) for k, v in model.records[-1].versions.items() if k != OURS}


def _model(model: ModelResults, availability: str) -> dict[str, Any]:
    """Describe a model, also by its metrics without a direction, such as the number of
    parameters."""
    key_inputs = model.records[0].key_inputs
    labels = model.identity.labels()
    columns = (
        "method",
        "pattern",
        "quantizer",
        "seed",
        "calibration",
        "training",
        "dtype",
        "device",
    )
    details: dict[str, Any] = {k: labels[k] for k in columns} | {"base_model": model.source}
    targets = [model.identity.include, model.identity.exclude]
    stages = [{"name": s["name"], "config": s["config"]} for s in key_inputs.get("stages", [])]
    details |= {
        "base_model_sha256": key_inputs.get("model"),
        "targets": json.dumps(targets),
        "stages": json.dumps(stages),
    }
    details |= {
        r.metric: f"{v:.15g}"
        for record in model.records
        for r, v in values_of(record)
        if not r.better
    }
    is_open = model.is_dense and model.published
    known = {
        "deployment_type": "self_deployed",
        "model_availability": availability or ("open_weights" if is_open else "unknown"),
    }
    return {
        "name": model.name.partition("/")[2],
        "id": model.name,
        "developer": model.name.partition("/")[0],
        "inference_engine": {
            "name": "transformers",
            "version": _library(model).get("transformers", "unknown"),
        },
        "additional_details": {k: str(v) for k, v in details.items() if v not in (None, "")}
        | known,
    }


def _result(record: Record, reading: ReadingRow, value: float) -> dict[str, Any]:
    protocol = str(record.identity.protocol.label)
    name, hub, content = data_of(record)
    source: dict[str, Any] = {"dataset_name": name, "source_type": "other"}
    if hub:
        source |= {"source_type": "hf_dataset", "hf_repo": hub}
    if content:
        source["additional_details"] = {"revision_or_digest": content}
    about = {
        "record": record.key,
        "measure": str(record.identity.measure),
        "token_digest": record.token_digest,
    }
    score: dict[str, Any] = {"score": value, "details": {k: v for k, v in about.items() if v}}
    if reading.stderr is not None:
        error: dict[str, Any] = {"value": reading.stderr}
        if metrics.find(reading.metric).windowed:
            error["method"] = "analytic"
        score["uncertainty"] = {"standard_error": error}
        if reading.n:
            score["uncertainty"]["num_samples"] = reading.n
    return {
        "evaluation_result_id": _result_id(record, reading),
        "evaluation_name": protocol,
        "evaluation_timestamp": str(recorded_at(record)),
        "source_data": source,
        "metric_config": _metric(reading),
        "score_details": score,
    }


def _metric(reading: ReadingRow) -> dict[str, Any]:
    config: dict[str, Any] = {
        "metric_name": reading.metric,
        "lower_is_better": reading.better == "lower",
    }
    known = metrics.find(reading.metric)
    config["metric_id"] = known.public_name or f"{OURS}.{reading.metric}"
    if not known.quantity:
        # The schema does not require a range.
        return config
    config |= {"metric_kind": known.public_name or known.name, "metric_unit": known.quantity}
    config |= {"score_type": "continuous", "min_score": "-Infinity", "max_score": "Infinity"}
    if known.low is not None:
        config["min_score"] = known.low
    if known.high is not None:
        config["max_score"] = known.high
    return config
