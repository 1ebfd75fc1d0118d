"""Contradictions within one record: between its key, its identity, its status and its readings.

They are found without the items. `bench.results.derive` computes readings again from items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from bench.catalog import metric_owners, registry
from bench.catalog.declarations import CatalogEntry
from bench.catalog.entries import MEASURES, METHODS, QUANTIZERS
from bench.results.identity import PROMPT, TIMED, Identity, Protocol, describe_prompt
from bench.results.record import ReadingRow, Record
from bench.system import digests

PROTOCOL_OF = {"pattern": "targets", "size": "weights"}
"""Protocol of a measure that reads no data."""
BESIDE_ARTIFACT = ("tokenizer", "measure", "hardware")
"""Key inputs of a measurement that are no inputs of its artifact."""
OF_ARTIFACT = ("model", "tokenizer", "threads", "stages", "measure")
OF_TIMING = ("model", "threads", "hardware", "kind", "measure")
OF_HARNESS = ("model", "method", "task", "content", "harness")
"""Key inputs that each record has: of an artifact, of a timing in an engine, of another harness."""
SIZES = {"parameters", "bytes", "sparsity", "bits_per_weight"}
"""Readings of `size` from which its others follow."""


def contradictions(record: Record) -> Iterator[str]:
    """Yield a sentence for each part of a record that contradicts another. Key inputs of another
    shape raise any error."""
    yield from _of_key(record)
    yield from _of_status(record)
    # Another harness may have any metric.
    measure = "" if "made_elsewhere" in record.notes else record.identity.measure
    for reading in record.readings:
        yield from _of_reading(reading, measure)
    if record.items is not None:
        if record.items.file not in ("", f"{record.stem}.parquet"):
            yield f"its items are in {record.items.file!r}, which is not named by its key"
        limit = record.identity.protocol.limit
        if limit is not None and record.items.rows > limit:
            yield f"it has {record.items.rows:,} items, but its protocol has at most {limit:,}"


def _of_key(record: Record) -> Iterator[str]:
    """Compare the key, the artifact and the identity with the key inputs."""
    inputs, identity = record.key_inputs, record.identity
    if record.key != digests.of(inputs):
        yield "its key is not the digest of its key_inputs"
    if "made_elsewhere" in record.notes:
        owed, repeat = OF_HARNESS, _of_harness
    elif identity.measure == TIMED and "stages" not in inputs:
        owed, repeat = OF_TIMING, _of_timing
    else:
        owed, repeat = OF_ARTIFACT, _of_inputs
    missing = [name for name in owed if inputs.get(name) in (None, "")]
    if missing:
        yield f"its key_inputs have no {missing[0]}"
        return
    stated = _of_identity(identity)
    repeated = repeat(inputs, identity)
    for name, value in stated.items():
        if name in repeated and value != repeated[name]:
            yield f"its identity has {name} {value!r}, but its key was made from {repeated[name]!r}"
    if owed is not OF_ARTIFACT:
        return
    # A plug-in's measure and a timing name their protocol as they like.
    is_free = identity.measure == TIMED or identity.measure not in MEASURES
    if "protocol" not in repeated and not is_free:
        yield "its identity has a protocol of which its key_inputs say nothing"
    made_from = {name: value for name, value in inputs.items() if name not in BESIDE_ARTIFACT}
    if record.artifact != digests.of(made_from):
        yield "its artifact is not the digest of the artifact's key_inputs"


def _of_identity(identity: Identity) -> dict[str, Any]:
    """Return the parts of an identity that key inputs repeat."""
    calibration, training = identity.calibration, identity.training
    labels = list(identity.stages)
    if identity.quantizer != "none":
        labels.append(identity.quantizer)
    return {
        "model": identity.model,
        "seed": identity.seed,
        "dtype": identity.dtype,
        "arithmetic": identity.arithmetic,
        "device": identity.device,
        "targets": [list(identity.include), list(identity.exclude)],
        "stages": [label.partition(":")[0] for label in labels],
        "settings": [_typed_settings(label) for label in labels],
        "pattern": identity.pattern,
        "calibration": calibration and calibration.model_dump(),
        "training": training and training.model_dump(),
        "measure": identity.measure,
        "protocol": identity.protocol,
    }


def _of_harness(inputs: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """Return the same parts from the key inputs of another harness's record."""
    named = {"name": inputs["task"], "engine": inputs["harness"]}
    stages = [inputs["method"].partition(":")[0]]
    protocol = identity.protocol.model_copy(update=named)
    return {"model": inputs["model"], "stages": stages, "protocol": protocol}


def _of_timing(inputs: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """Return the same parts from the key inputs of a timing that has no artifact."""
    engine = inputs["engine"]["name"] if "engine" in inputs else ""
    protocol = identity.protocol.model_copy(update={"engine": engine})
    return {"dtype": inputs["kind"], "protocol": protocol}


def _of_inputs(inputs: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """Return the same parts from the key inputs of an artifact's measurement.

    Lengths that an old identity leaves out are left out here, too.
    """
    stages = inputs["stages"]
    typed = zip(stages, map(_typed_settings, (*identity.stages, identity.quantizer)), strict=False)
    out: dict[str, Any] = {
        "seed": inputs["seed"],
        "dtype": inputs["dtype"],
        "arithmetic": inputs.get("arithmetic", ""),  # left out if it is the dtype
        "device": inputs["device"],
        "targets": inputs["targets"],
        "stages": [stage["name"] for stage in stages],
        "settings": [_same_settings(stage, settings) for stage, settings in typed],
        "pattern": stages[-1]["pattern"],
    }
    for name, stated in (("calibration", identity.calibration), ("training", identity.training)):
        fields = stated.model_dump() if stated else {}
        out[name] = inputs[name] and _of_text(inputs[name], fields)
    out["measure"] = inputs["measure"]["name"]
    config = inputs["measure"].get("config") or {}
    parts = {"draw": config.get("draw", ""), "bos": config.get("bos", "")}
    if "corpus" in config:
        parts["name"] = "-".join(filter(None, (config["corpus"], config.get("split"))))
        parts |= {"seqlen": config["seqlen"], "limit": config.get("windows")}
    elif "task" in config:
        version = f"{config['shots']}-shot" if "shots" in config else config["version"]
        prompt = config.get("prompt") or describe_prompt(*(config.get(name) for name in PROMPT))
        parts |= {"name": config["task"], "version": version, "prompt": prompt}
        parts["limit"] = config.get("limit")
    elif out["measure"] in PROTOCOL_OF:
        parts = {"name": PROTOCOL_OF[out["measure"]], "draw": parts["draw"]}
    if "name" in parts:
        out["protocol"] = Protocol.model_construct(**parts)
    return out


def _of_text(text: dict[str, Any], stated: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a text in a key that the identity states. A key leaves defaults out."""
    fields = {"bos": "", "all_experts": False, "packing": "", "recipe": stated.get("recipe")} | text
    return {name: None if value is None else fields[name] for name, value in stated.items()}


def _typed_settings(label: str) -> dict[str, Any]:
    """Return the settings in a label by their names in a configuration. A word without a value is a
    switch."""
    out: dict[str, Any] = {}
    for setting in label.split(":")[1:]:
        name, has_value, text = setting.partition("=")
        out[name.replace("-", "_")] = _value(text) if has_value else True
    return out


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _same_settings(stage: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
    """Return what the key has for settings that were typed.

    A default is not stored, nor is the stage that `from` names, nor what a file becomes. A name
    that is not ours may have any settings.
    """
    entry = METHODS.get(stage["name"]) or QUANTIZERS.get(stage["name"])
    stored = {name.removesuffix("_"): value for name, value in stage.get("config", {}).items()}
    stored |= {name: outer["name"] for name, outer in stage.get("outer", {}).items()}
    out: dict[str, Any] = {}
    for name, value in typed.items():
        if name == "from" or (entry and entry.file and name == entry.file.field):
            out[name] = value
        elif isinstance(stored.get(name), bool | int | float | str):
            out[name] = stored[name]
        elif entry is None or name in stored:
            out[name] = value
        elif value is True and name.replace("_", "-") in entry.presets:
            preset = entry.presets[name.replace("_", "-")]
            fields = {field.removesuffix("_"): kept for field, kept in preset.items()}
            # One that is not stored is a default of that time, or had another name.
            out[name] = all(
                stored.get(f, kept) in (kept, typed.get(f)) for f, kept in fields.items()
            )
        else:
            out[name] = _default(entry, name)
    return out


def _default(entry: CatalogEntry, name: str) -> Any:
    """Return the default of a setting as a label has it, or None if there is no such setting."""
    for field in dataclasses.fields(registry.load(entry)):
        if field.name.removesuffix("_") == name and field.default is not dataclasses.MISSING:
            return field.default
    return None


def _of_status(record: Record) -> Iterator[str]:
    finite = [reading.value is not None for reading in record.readings]
    if record.status == "ok" and (not all(finite) or record.reason or record.traceback):
        yield "it is ok, but a reading has no value, or it has a reason or a traceback"
    if record.status == "ok" and not finite:
        yield "it is ok, but it has no reading"
    if record.status == "diverged" and record.readings and all(finite):
        yield "it has diverged, but every reading has a value"
    if record.status in ("failed", "skipped") and record.readings:
        yield f"it has {record.status}, but it has readings"
    if record.status != "ok" and (record.items is not None or not record.reason):
        yield f"it is {record.status}, but it has items, or no reason"
    names = [reading.metric for reading in record.readings]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled:
        yield f"it has two readings of {doubled}"
    if record.status == "ok" and record.identity.measure == "size":
        lacking = sorted(SIZES - set(names))
        if lacking:
            yield f"it has no {lacking[0]}, from which its other numbers follow"


def _of_reading(reading: ReadingRow, measure: str) -> Iterator[str]:
    # Another version of a plug-in may declare other facts.
    owned, value = metric_owners.built_in().get(reading.metric), reading.value
    if measure in MEASURES and not _may_have(MEASURES[measure], reading.metric):
        yield f"its measure {measure} has no metric {reading.metric!r}"
    if reading.better not in ("lower", "higher", ""):
        yield (
            f"its {reading.metric} has the direction {reading.better!r}, not lower, higher or an "
            "empty text"
        )
    if owned is None:
        return
    known, stated = owned.metric, (reading.unit, reading.better)
    if stated != (known.unit, known.better):
        yield (
            f"its {reading.metric} has unit and direction {stated}, not "
            f"{(known.unit, known.better)}"
        )
    if value is None:
        return
    if (known.low is not None and value < known.low) or (
        known.high is not None and value > known.high
    ):
        yield f"its {reading.metric} is {value:.9g}, outside {known.low} to {known.high}"
    if known.is_count and not value.is_integer():
        yield f"its {reading.metric} is {value:.9g}, but it is a count"


def _may_have(measure: CatalogEntry, metric: str) -> bool:
    """Return whether a record of a measure of this package may have a metric."""
    return measure.other_metrics or any(
        known.name == metric and known.in_records for known in measure.metrics
    )
