"""Every Eval Ever's aggregate schema: one document for each model.

github.com/evaleval/every_eval_ever, eval.schema.json
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from bench.formats.contract import ModelResults
from bench.parts.exports.result_sets import OURS, data_of, recorded_at, values_of
from bench.results import metrics
from bench.results.record import ReadingRow, Record

VERSION = "0.3.0"
"""Version of the schema."""


def documents(model: ModelResults, organization: str) -> dict[str, str]:
    """Return JSON by path in Every Eval Ever's data store. The same records give the same bytes.

    Single questions are left out: the schema requires their text and the model's answer, and
    records have neither.
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
            "source_organization_name": organization,
            # A pruned model's developer is the evaluator.
            "evaluator_relationship": "third_party" if model.is_dense else "first_party",
        },
        "eval_library": {
            "name": "cast_bench",
            "version": model.version,
            "additional_details": _library(model),
        },
        "model_info": _model(model),
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
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
    return {f"data/{OURS}/{developer}/{name.replace('/', '_')}/{file}.json": text}


def _library(model: ModelResults) -> dict[str, str]:
    return {str(k): str(v) for k, v in model.records[-1].versions.items() if k != OURS}


def _model(model: ModelResults) -> dict[str, Any]:
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
    known = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights" if model.is_dense and model.published else "unknown",
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
        "evaluation_result_id": f"{record.identity.measure}/{protocol}/{reading.metric}",
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
