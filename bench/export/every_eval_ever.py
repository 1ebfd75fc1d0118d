"""Every Eval Ever's aggregate schema, one document a model (github.com/evaleval/every_eval_ever, eval.schema.json)."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from bench.export.result_sets import OURS, ModelResults, data_of, recorded_at, values_of
from bench.results import metrics
from bench.results.record import ReadingRow, Record

VERSION = "0.3.0"
"""Of the schema."""


def documents(line: ModelResults, organization: str) -> dict[str, str]:
    """Path in Every Eval Ever's data store -> JSON. The same records give the same bytes.

    Single questions are not among them: that schema asks for their text and the model's answer, and records keep neither.
    """
    when = str(line.recorded)
    told = {
        "schema_version": VERSION,
        "evaluation_id": f"{OURS}/{line.name}/{when}",
        "evaluation_timestamp": when,
        "retrieved_timestamp": when,
        "source_metadata": {
            "source_name": OURS,
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "third_party" if line.dense else "first_party",  # who prunes a model made it
        },
        "eval_library": {"name": "cast_bench", "version": line.version, "additional_details": _library(line)},
        "model_info": _model(line),
        "evaluation_results": [
            _result(record, reading, value)
            for record in line.records
            for reading, value in values_of(record)
            if reading.better
        ],
    }
    digest = hashlib.sha256("".join(r.key for r in line.records).encode()).digest()
    file = uuid.UUID(bytes=digest[:16], version=4)
    developer, _, model = line.name.partition("/")
    text = json.dumps(told, indent=1, sort_keys=True, allow_nan=False) + "\n"
    return {f"data/{OURS}/{developer}/{model.replace('/', '_')}/{file}.json": text}


def _library(line: ModelResults) -> dict[str, str]:
    versions = line.records[-1].provenance.get("versions") or {}
    return {str(k): str(v) for k, v in versions.items() if k != OURS}


def _model(line: ModelResults) -> dict[str, Any]:
    """Readings without a better or worse, such as the number of parameters, say what the model is."""
    decided = line.records[0].key_inputs
    labels = line.identity.labels()
    columns = ("method", "pattern", "quantizer", "seed", "calibration", "training", "dtype", "device")
    details: dict[str, Any] = {k: labels[k] for k in columns} | {"base_model": line.source}
    targets = [line.identity.include, line.identity.exclude]
    details |= {"base_model_sha256": decided.get("model"), "targets": json.dumps(targets)}
    details |= {"stages": json.dumps([{k: s[k] for k in ("name", "config")} for s in decided.get("stages", [])])}
    details |= {r.metric: f"{v:g}" for record in line.records for r, v in values_of(record) if not r.better}
    known = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights" if line.dense and line.published else "unknown",
    }
    return {
        "name": line.name.partition("/")[2],
        "id": line.name,
        "developer": line.name.partition("/")[0],
        "inference_engine": {"name": "transformers", "version": _library(line).get("transformers", "unknown")},
        "additional_details": {k: str(v) for k, v in details.items() if v not in (None, "")} | known,
    }


def _result(record: Record, reading: ReadingRow, value: float) -> dict[str, Any]:
    protocol = str(record.identity.protocol.label)
    name, hub, content = data_of(record)
    source: dict[str, Any] = {"dataset_name": name, "source_type": "hf_dataset" if hub else "other"}
    source |= {"hf_repo": hub} if hub else {}
    source |= {"additional_details": {"revision_or_digest": content}} if content else {}
    about = {"record": record.key, "measure": str(record.identity.measure), "token_digest": record.token_digest}
    score: dict[str, Any] = {"score": value, "details": {k: v for k, v in about.items() if v}}
    if reading.stderr is not None:
        error: dict[str, Any] = {"value": reading.stderr}
        error |= {"method": "analytic"} if metrics.find(reading.metric).windowed else {}
        score["uncertainty"] = {"standard_error": error} | ({"num_samples": reading.n} if reading.n else {})
    return {
        "evaluation_result_id": f"{record.identity.measure}/{protocol}/{reading.metric}",
        "evaluation_name": protocol,
        "evaluation_timestamp": str(recorded_at(record)),
        "source_data": source,
        "metric_config": _metric(reading),
        "score_details": score,
    }


def _metric(reading: ReadingRow) -> dict[str, Any]:
    told: dict[str, Any] = {"metric_name": reading.metric, "lower_is_better": reading.better == "lower"}
    known = metrics.find(reading.metric)
    told["metric_id"] = known.public_name or f"{OURS}.{reading.metric}"
    if not known.quantity:  # its range is unknown, which the schema allows to leave out
        return told
    told |= {"metric_kind": known.public_name or known.name, "metric_unit": known.quantity}
    ends = {
        "min_score": "-Infinity" if known.low is None else known.low,
        "max_score": "Infinity" if known.high is None else known.high,
    }
    return told | {"score_type": "continuous"} | ends
