"""The command that makes a record again."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from bench.results.identity import PROMPT
from bench.results.record import Record
from methods.errors import UserError
from methods.pattern import Pattern

FLAGS = {
    "models": "--model", "methods": "--methods", "patterns": "--pattern", "quantizers": "--quant",
    "measures": "--measures", "tasks": "--tasks", "seeds": "--seeds", "dtype": "--dtype", "device": "--device",
}  # fmt: skip
"""Flags of `bench run` by setting. The other settings use --set."""
PRUNE_FLAGS = {
    "methods": "--method", "models": "--model", "patterns": "--pattern", "quantizers": "--quant", "seeds": "--seed",
    "dtype": "--dtype", "device": "--device",
}  # fmt: skip
"""Flags of `bench prune` by setting."""
LEARNING_RATES = {"lr", "relative_lr"}
"""Names of the fields for the learning rate. If the user sets one of them, no recipe sets the other."""
RENAMED = {"floor": "final_lr_ratio"}
"""Today's name of a field, by its name in older records."""
ONE_PROCESS = (("training.processes", 1), ("calibration.processes", 1))


def command(records: Sequence[Record]) -> str:
    """Return the command that makes records of one row and measure, one for each seed. Empty if they do not say how."""
    values = _settings_today(records[0])
    if not values:
        return ""
    seeds = sorted(r.identity.seed for r in records if r.identity.seed is not None)
    values |= {"seeds": tuple(seeds)} if seeds else {}
    parts = ["bench", "run"]
    for name, flag in FLAGS.items():
        if values.get(name):
            parts += [flag, _text(values[name])]
    for name, value in values.items():
        if name not in FLAGS:
            parts += _set(name, value)
    return shlex.join(parts)


def prune_and_export(record: Record) -> tuple[str, str]:
    """Return the commands that make a record's model and export it. Empty if the record does not say how.

    A 2:4 model is exported as packed24, with its quantizer's grid if that has one, and others as dense safetensors.
    """
    values = _settings_today(record)
    if not values:
        return "", ""
    identity = record.identity
    words = [identity.model, identity.method, identity.pattern, identity.quantizer]
    kept = (w for w in dict.fromkeys(words) if w != "none")
    folder = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(kept)).strip("-.") or "model"
    if Pattern.parse(identity.pattern).dense:
        del values["patterns"]
    parts = ["bench", "prune"]
    for key, flag in PRUNE_FLAGS.items():
        if values.get(key) and (key, values[key]) != ("quantizers", ("none",)):
            parts += [flag, _text(values[key])]
    for key in ("arithmetic", "bos", "threads", "targets", "calibration", "training"):
        parts += _set(key, values.get(key))
    export = ["bench", "export", folder, "--format", "hf"]
    if identity.pattern == "2:4" and identity.include == ("*",):
        export = ["bench", "export", folder, "--format", "packed24"]
        values_kind = integer_grid(identity.quantizer)
        export += ["--values", values_kind] if values_kind else []
        export += ["--exclude", ",".join(identity.exclude)] if identity.exclude else []
    export += ["--out", f"{folder}-{export[4]}"]
    return shlex.join([*parts, "--out", folder]), shlex.join(export)


def integer_grid(quantizer: str) -> str | None:
    """Return int8 or int4 if packed24 can store this quantizer's weights as integers."""
    bits = re.match(r"int[48](?=$|-)", quantizer)
    return bits[0] if bits else None


def _set(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [part for key, inner in value.items() for part in _set(f"{name}.{key}", inner)]
    if value is None or value in ([], ["*"]) or (name, value) in ONE_PROCESS:
        return []
    return ["--set", f"{name}={_text(value)}"]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _settings_today(record: Record) -> dict[str, Any]:
    """Return the settings, or nothing if a run of this version would have others."""
    try:
        values = settings(record)
    except UserError:
        return {}
    training, device = record.identity.training, record.identity.device
    if training is None:
        return values
    # Records made before an identity had the recipe do not say which it was, nor how large the model is.
    for_device = {n: r for n, r in _recipes().items() if r["parameters"] and r.get("device", device) == device}
    possible = {training.recipe: _recipes().get(training.recipe)} if training.recipe else for_device
    return values if any(recipe and _fits(record, recipe) for recipe in possible.values()) else {}


@cache
def _recipes() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("bench").joinpath("assets/recipes.toml").read_text())


def _fits(record: Record, recipe: dict[str, Any]) -> bool:
    """Return whether the record's stages have what a recipe gives them, beside what the user typed."""
    for stage, label in zip(record.key_inputs["stages"], record.identity.stages, strict=False):
        options = [option.partition("=") for option in label.split(":")[1:]]
        if not all(equals for _, equals, _ in options):
            continue  # the fields of a preset are not in the label
        typed = {name.rstrip("_") for name, _, _ in options}
        typed |= LEARNING_RATES if typed & LEARNING_RATES else set()
        has = {RENAMED.get(name, name.rstrip("_")): value for name, value in stage["config"].items()}
        given = recipe.get("methods", {}).get(stage["name"], {}).items()
        gives = {name: recipe[name] for name in has.keys() & {"final_lr_ratio"}} | {n.rstrip("_"): v for n, v in given}
        if any(has.get(name) != gives.get(name) for name in (has.keys() | gives.keys()) - typed):
            return False
    return True


def settings(record: Record) -> dict[str, Any]:
    """Return the values of a spec, from a record's identity and key inputs.

    Raises:
        UserError: they cannot be read back.
    """
    identity, inputs = record.identity, record.key_inputs
    try:
        pattern = Pattern.parse(identity.pattern)
        values: dict[str, Any] = {
            "methods": (identity.stages[-1],),
            "models": (identity.model,),
            "patterns": ("2:4",) if pattern.dense else (str(pattern.base),),
            "measures": (identity.measure,),
            "dtype": identity.dtype,
            "device": identity.device,
            "threads": inputs["threads"],
            "targets": {"include": list(identity.include), "exclude": list(identity.exclude)},
        }
        if identity.arithmetic:
            values["arithmetic"] = identity.arithmetic
        if identity.seed is not None:
            values["seeds"] = (identity.seed,)
        if calibration := inputs.get("calibration"):
            values["calibration"] = {k: calibration[k] for k in ("data", "sequences", "seqlen")}
            values["calibration"] |= {"all_experts": calibration.get("all_experts", False)}
            values["calibration"] |= {"processes": calibration.get("processes", 1)}
        if training := inputs.get("training"):
            kept = {k: training[k] for k in ("data", "tokens", "batch", "seqlen", "micro")}
            values["training"] = kept | {"processes": inputs.get("processes", 1)}
            if identity.training and identity.training.recipe:
                values["training"]["recipe"] = identity.training.recipe
        config = dict(inputs["measure"]["config"])
        rules = {config.pop("bos", ""), *(text.get("bos", "") for text in (calibration, training) if text)}
        if rule := rules & {"always", "never"}:  # all texts of a run have one rule, and "auto" is the default
            (values["bos"],) = rule
        values |= _measure_settings(identity.measure, config)
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        raise UserError(f"record {record.short_key} does not say how it was made ({fault}): run bench run") from None
    values["quantizers"] = (identity.quantizer,)
    return values


def _measure_settings(measure: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return a measure's fields as settings of a run."""
    if "corpus" in config:
        return {"perplexity": {"windows": "all"} | {("data" if k == "corpus" else k): v for k, v in config.items()}}
    if "task" in config:
        kept = {k: config[k] for k in ("tokens", "batch", "limit", "context", *PROMPT) if k in config}
        own = str(config.get("file", "")).startswith("/")
        return {"tasks": (config["file"] if own else config["task"],), measure: {"limit": "all"} | kept}
    # Sizes of workloads are no settings.
    return {} if "workload" in config or not config else {measure: config}
