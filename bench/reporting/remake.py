"""The command that makes a cell's records again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from bench.judging import again
from bench.store import Record
from methods.errors import UserError

FLAGS = {
    "models": "--model",
    "methods": "--methods",
    "patterns": "--pattern",
    "quantizers": "--quant",
    "measures": "--measures",
    "tasks": "--tasks",
    "seeds": "--seeds",
    "dtype": "--dtype",
    "device": "--device",
}
"""Settings that have a flag of their own; the others go by --set."""


def command(records: Sequence[Record]) -> str:
    """For one line's records of one measure, a seed each. Empty where they do not say how they were made."""
    try:
        values = again.settings(records[0])
    except UserError:
        return ""
    seeds = sorted(r.slot["seed"] for r in records if r.slot.get("seed") is not None)
    values |= {"seeds": tuple(seeds)} if seeds else {}
    parts = ["bench", "run"]
    for name, flag in FLAGS.items():
        if values.get(name):
            parts += [flag, _text(values[name])]
    for name, value in values.items():
        if name not in FLAGS:
            parts += _set(name, value)
    return shlex.join(parts)


def _set(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [part for key, inner in value.items() for part in _set(f"{name}.{key}", inner)]
    if value is None or value in ([], ["*"]) or (name, value) == ("training.processes", 1):
        return []
    return ["--set", f"{name}={_text(value)}"]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
