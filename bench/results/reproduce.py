"""The command that makes a record again."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from bench.catalog import choice, named_files, registry
from bench.catalog.entries import MEASURES
from bench.results.identity import PROMPT
from bench.results.record import Record
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

FLAGS = {
    "models": "--model", "methods": "--methods", "patterns": "--pattern", "quantizers": "--quant",
    "measures": "--measures", "tasks": "--tasks", "seeds": "--seeds", "dtype": "--dtype",
    "device": "--device",
}  # fmt: skip
"""Flags of `bench run` by setting. The other settings use --set."""
PRUNE_FLAGS = {
    "methods": "--method", "models": "--model", "patterns": "--pattern", "quantizers": "--quant",
    "seeds": "--seed", "dtype": "--dtype", "device": "--device",
}  # fmt: skip
"""Flags of `bench prune` by setting."""
ONE_PROCESS = (("training.processes", 1), ("calibration.processes", 1))


def command(records: Sequence[Record]) -> str:
    """Return the command that makes records of one row and measure, one for each seed. Empty if
    they do not say how."""
    try:
        values = _with_files(records[0], settings(records[0]))
    except UserError:
        return ""
    seeds = sorted({r.identity.seed for r in records if r.identity.seed is not None})
    if seeds:
        values |= {"seeds": tuple(seeds)}
    parts = ["bench", "run"]
    for name, flag in FLAGS.items():
        if values.get(name):
            parts += [flag, _text(values[name])]
    for name, value in values.items():
        if name not in FLAGS:
            parts += _set(name, value)
    return shlex.join(parts)


def prune_and_export(record: Record) -> tuple[str, str]:
    """Return the commands that make a record's model and export it. Empty if the record does not
    say how.

    A 2:4 model is exported as packed24 and a quantized one as `stored`, which hold the bits that
    the row counts, if these formats are there. Others are exported as dense safetensors.
    """
    try:
        values = _with_files(record, settings(record))
    except UserError:
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
    if identity.quantizer != "none" and registry.is_installed("exports", "stored"):
        export[4] = "stored"
    is_packed = identity.quantizer == "none" and registry.is_installed("exports", "packed24")
    if is_packed and identity.pattern == "2:4" and identity.include == ("*",):
        export = ["bench", "export", folder, "--format", "packed24"]
        if identity.exclude:
            export += ["--exclude", ",".join(identity.exclude)]
    export += ["--out", f"{folder}-{export[4]}"]
    return shlex.join([*parts, "--out", folder]), shlex.join(export)


def _with_files(record: Record, values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the files of classes in place of their names, for a command that is
    printed and not run."""
    for kind in ("methods", "quantizers", "measures"):
        values[kind] = tuple(
            named_files.with_files(kind, label, record.plugins) for label in values[kind]
        )
    return values


def _set(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [part for key, inner in value.items() for part in _set(f"{name}.{key}", inner)]
    if value is None or value in ([], ["*"]) or (name, value) in ONE_PROCESS:
        return []
    return ["--set", f"{name}={_text(value)}"]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def settings(record: Record) -> dict[str, Any]:
    """Return the values of a spec from a record's identity and key inputs, or raise UserError if it
    cannot."""
    identity, inputs = record.identity, record.key_inputs
    for label in (*identity.stages, identity.quantizer, identity.measure):
        if named_files.names_file(label):
            raise UserError(
                f"record {record.short_key} names the file {label!r}, and a record may not name "
                "code to run"
            )
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
        calibration = inputs.get("calibration")
        if calibration:
            values["calibration"] = {k: calibration[k] for k in ("data", "sequences", "seqlen")}
            values["calibration"] |= {"all_experts": calibration.get("all_experts", False)}
            values["calibration"] |= {"processes": calibration.get("processes", 1)}
            values["calibration"] |= {"packing": calibration.get("packing", "crops")}
        training = inputs.get("training")
        if training:
            kept = {k: training[k] for k in ("data", "tokens", "batch", "seqlen", "micro")}
            values["training"] = kept | {"processes": inputs.get("processes", 1)}
            if identity.training and identity.training.recipe:
                values["training"]["recipe"] = identity.training.recipe
        config = dict(inputs["measure"]["config"])
        rules = {
            config.pop("bos", ""),
            *(text.get("bos", "") for text in (calibration, training) if text),
        }
        # All texts of a run have one rule, and "auto" is the default.
        rule = rules & {
            "always",
            "never",
        }
        if rule:
            (values["bos"],) = rule
        values |= _measure_settings(identity.measure, config)
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        raise UserError(
            f"record {record.short_key} does not say how it was made ({fault}): run bench run"
        ) from None
    values["quantizers"] = (choice.as_typed(identity.quantizer),)
    return values


def _measure_settings(measure: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return a measure's fields as settings of a run."""
    if measure not in MEASURES:
        return _plugin_settings(measure, config)
    if "asked" in config:
        return {measure: config["asked"]}
    if "corpus" in config:
        return _window_settings(config)
    if "task" in config:
        kept = {
            k: config[k] for k in ("tokens", "batch", "limit", "context", *PROMPT) if k in config
        }
        own = str(config.get("file", "")).startswith("/")
        return {
            "tasks": (config["file"] if own else config["task"],),
            measure: {"limit": "all"} | kept,
        }
    return {}  # sizes of workloads are no settings


def _window_settings(config: dict[str, Any]) -> dict[str, Any]:
    measured = {"windows": "all", **config}
    if measured["windows"] not in ("all", None):
        measured.setdefault("draw", "front")
    if "corpus" in measured:
        measured["data"] = measured.pop("corpus")
    return {"perplexity": measured}


def _plugin_settings(measure: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a plug-in's measure that are settings of a run. Without the plug-in, its
    table is unknown."""
    settings: Any = None
    with contextlib.suppress(UserError):
        settings = getattr(registry.load(registry.lookup("measures", measure)), "settings", None)
    if "corpus" in config and getattr(settings, "table", "perplexity") == "perplexity":
        return _window_settings(config)
    out: dict[str, Any] = {"tasks": (config["task"],)} if "task" in config else {}
    if settings:
        out[settings.table] = {
            name: value for name, value in config.items() if name in settings.model_fields
        }
    return out
