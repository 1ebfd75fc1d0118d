"""Metadata of a card for the hub: the front matter with its model-index, and .eval_results.

The rules are those of huggingface.co/docs/hub/model-cards and huggingface.co/docs/hub/eval-results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCardData,
    eval_result_entries_to_yaml,
)

from bench.inputs import corpora
from bench.inputs.mixtures import shares_of
from bench.parts.card.contents import Contents
from bench.parts.card.row import Number, Row, is_dense
from bench.parts.exports.result_sets import data_of
from bench.results import metrics
from bench.results.record import Record
from bench.system.text import printable

LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "Llama 2 Community License": "llama2",
    "Meta Llama 3 Community License": "llama3",
    "Llama 3.1 Community License": "llama3.1",
    "Llama 3.2 Community License": "llama3.2",
    "Gemma Terms of Use": "gemma",
    "BigCode OpenRAIL-M": "bigcode-openrail-m",
}
"""Ids of licences on the hub. Others have the id `other`, with their name beside it."""

BENCHMARKS = {
    ("gsm8k", "exact_match_strict-match"): ("openai/gsm8k", "gsm8k"),
    ("mmlu_pro", "exact_match_custom-extract"): ("TIGER-Lab/MMLU-Pro", "mmlu_pro"),
    ("gpqa_diamond_cot_zeroshot", "exact_match_flexible-extract"): (
        "Idavidrein/gpqa",
        "gpqa_diamond",
    ),
}
"""Data set and task on the hub's list of benchmarks, by task of lm-eval and metric."""

NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|0o[0-7]+$")
"""Numbers of YAML 1.2, which the hub reads. PyYAML writes some of them unquoted, as text of 1.1."""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writer that quotes text that YAML 1.1 or 1.2 reads as a number."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def front_matter(name: str, base: str, licence: str, row: Row | None, contents: Contents) -> str:
    """Return the YAML at the start of a card.

    name: the model; base: hub id of the model that it was made from, "" if it has none; licence:
    that of the base, "" if it is unknown.
    """
    is_quantized = contents.quantized
    fields: dict[str, Any] = {}
    if licence:
        fields["license"] = LICENCES.get(licence, "other")
        if licence not in LICENCES:
            fields["license_name"] = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")
    if base:
        fields["base_model"] = printable(base)
    if base and is_quantized:
        fields["base_model_relation"] = "quantized"
    tags = ["cast-bench"]
    if row and row.identity.pattern != "dense":
        tags.append("pruned")
    if is_quantized:
        tags.append("quantized")
    results = eval_results(row.numbers) if row else []
    data = ModelCardData(
        library_name=contents.library or None,
        pipeline_tag="text-generation",
        tags=tags,
        datasets=_data_sets(row) or None,
        model_name=printable(name) if results else None,
        eval_results=results or None,
        **fields,
    )
    return dump(data.to_dict())  # type: ignore[no-untyped-call]


def dump(value: Any) -> str:
    """Return YAML in which no text can be read as a number."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def eval_results(numbers: Iterable[Number]) -> list[EvalResult]:
    """Return the numbers of texts and tasks as the hub's results.

    What separates two measurements of a data set is in its config, its split and its revision.
    """
    out = []
    for number in numbers:
        identity, reading = number.record.identity, number.reading
        if identity.subject not in ("text", "task"):
            continue
        name, hub, revision = (printable(part) for part in data_of(number.record))
        metric = metrics.find(reading.metric)
        out.append(
            EvalResult(
                task_type="text-generation",
                task_name="Text Generation",
                dataset_type=hub or name,
                dataset_name=name,
                dataset_config=printable(identity.protocol.label),
                dataset_split=_split(number.record),
                dataset_revision=revision or None,
                metric_type=printable(metric.public_name or reading.metric),
                metric_name=printable(metric.label),
                metric_value=number.found.value,
            )
        )
    return out


def _split(record: Record) -> str | None:
    """Return the split of a text that was measured, by the name of its files, or None."""
    config = (record.key_inputs.get("measure") or {}).get("config") or {}
    source = corpora.find(str(config.get("corpus")))
    if source is None:
        return None
    files = dict(source.files).get("evaluation", "")
    found = re.search(r"\b(test|validation|train)\b", files)
    return found[0] if found else None


def _data_sets(row: Row | None) -> list[str]:
    """Return the hub ids of the texts that calibrated or trained the model."""
    if row is None or is_dense(row.identity):
        return []
    texts = (row.identity.calibration, row.identity.training)
    names = [name for text in texts if text for name in shares_of(text.data)]
    sources = map(corpora.find, names)
    return sorted({source.hub for source in sources if source and source.hub})


def benchmark_files(numbers: Iterable[Number]) -> Mapping[str, str]:
    """Return files of .eval_results by name, for whole benchmarks on the hub's list. Values are in
    percent."""
    out = {}
    for number in numbers:
        protocol = number.record.identity.protocol
        known = BENCHMARKS.get((protocol.name, number.reading.metric))
        if known is None or protocol.limit or number.record.identity.subject != "task":
            continue
        data_set, task = known
        entry = EvalResultEntry(
            dataset_id=data_set,
            task_id=task,
            value=round(100 * number.found.value, 4),
            date=number.record.recorded or None,
            notes=printable(f"lm-eval {protocol.label}, cast-bench {number.record.short_key}"),
        )
        out[f".eval_results/{task}.yaml"] = dump(eval_result_entries_to_yaml([entry]))
    return out
