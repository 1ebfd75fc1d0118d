"""Steps that read records of older schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from bench.system import digests
from methods.errors import UserError

SCHEMA = 4
"""Of the records that this version writes."""

Fields = dict[str, Any]


def add_training(fields: Fields) -> Fields:
    """2: slots name the training. Before there were methods that train, they had none."""
    return fields | {"slot": {"training": None} | fields["slot"]}


def type_identity(fields: Fields) -> Fields:
    """3: the slot, all text, becomes an identity with fields; `determinants` become `key_inputs`; the artifact's key."""
    slot, key_inputs = fields["slot"], fields.get("determinants", {})
    include, exclude = slot.get("targets") or [["*"], []]
    identity = {
        "model": slot["model"],
        "stages": [_rename_fields(stage) for stage in slot["method"].split(" + ")],
        "pattern": slot["pattern"],
        "quantizer": slot.get("quantizer") or "none",
        "seed": slot.get("seed"),
        "measure": slot.get("measure") or "",
        "protocol": _protocol(slot.get("measure"), slot.get("protocol") or ""),
        "calibration": _calibration(slot.get("calibration") or ""),
        "training": _training(slot.get("training") or ""),
        "include": include,
        "exclude": exclude,
        "dtype": slot.get("dtype") or "",
        "device": slot.get("device") or "",
    }
    artifact = {k: v for k, v in key_inputs.items() if k not in ("tokenizer", "measure", "hardware")}
    rest = {k: v for k, v in fields.items() if k not in ("slot", "determinants")}
    return rest | {"identity": identity, "key_inputs": key_inputs, "artifact": digests.of(artifact)}


def add_digest(fields: Fields) -> Fields:
    """4: records are stored with a digest of their fields (Record.to_json); older ones have none."""
    return fields


def _rename_fields(stage: str) -> str:
    """A stage as typed, with today's names of its fields."""
    for old, new in (("floor", "final_lr_ratio"), ("clip", "grad_clip"), ("gain", "lambda_scale")):
        stage = stage.replace(f":{old}=", f":{new}=")
    return stage


def _protocol(measure: str | None, text: str) -> dict[str, Any]:
    if measure == "zeroshot" and (task := re.fullmatch(r"(.+)@([^@]*?)(?:x(\d+))?", text)):
        return {"name": task[1], "version": task[2], "limit": int(task[3]) if task[3] else None}
    if windows := re.fullmatch(r"(.+)@(\d+)(?:x(\d+))?", text):
        return {"name": windows[1], "seqlen": int(windows[2]), "limit": int(windows[3]) if windows[3] else None}
    return {"name": text}


def _calibration(text: str) -> dict[str, Any] | None:
    if parts := re.fullmatch(r"(.+)@(\d+)x(\d+)", text):
        return {"data": parts[1], "seqlen": int(parts[2]), "sequences": int(parts[3])}
    return {"data": text} if text else None


def _training(text: str) -> dict[str, Any] | None:
    if parts := re.fullmatch(r"(.+?)(?:@(\d+)x(\d+))?, ([\d,]+) tokens", text):
        steps = {"seqlen": int(parts[2]), "batch": int(parts[3])} if parts[2] else {}
        return {"data": parts[1], "tokens": int(parts[4].replace(",", ""))} | steps
    return {"data": text} if text else None


STEPS: dict[int, Callable[[Fields], Fields]] = {1: add_training, 2: type_identity, 3: add_digest}
"""What makes a record of schema n one of n + 1. `key` and what it is the digest of stay."""


def stored_version(content: bytes) -> int:
    """The schema in which a record's JSON was stored.

    Raises:
        ValueError: no record.
    """
    try:
        return int(json.loads(content)["schema_version"])
    except (KeyError, TypeError, OverflowError, RecursionError) as fault:
        raise ValueError(f"{type(fault).__name__}: {fault}") from None


def upgrade(fields: Fields, name: str) -> Fields:
    """A record's fields in today's schema. name: what they were read from, for the sentence.

    Raises:
        UserError: of a newer schema.
        ValueError, KeyError, TypeError, OverflowError: no record at all.
    """
    version = int(fields["schema_version"])
    refuse_newer(version, name)
    if version < min(STEPS):
        raise ValueError(f"there never was a schema {version}")
    for step in range(version, SCHEMA):
        fields = STEPS[step](fields) | {"schema_version": step + 1}
    return fields


def refuse_newer(version: int, name: str) -> None:
    """
    Raises:
        UserError: a schema that this version does not know yet.
    """
    if version > SCHEMA:
        raise UserError(
            f"{name} has schema {version}, newer than this version's {SCHEMA}: upgrade cast-bench to read it"
        )
