"""fidelity.json: the numbers of a card with the digests of the files and records behind them.
check_receipt.py checks it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.parts.card.contents import weight_files
from bench.parts.card.row import Number, Row
from bench.system import digests

FORMAT = "cast-bench fidelity receipt"
VERSION = 1
FILE = "fidelity.json"


def to_json(
    name: str,
    base: str,
    steps: Sequence[str],
    row: Row | None,
    folder: Path,
    export: Sequence[str] = (),
) -> str:
    """Return the receipt of a model folder. The same files and records give the same bytes.

    steps: sentences about what was done to a folder without a row. export: flags of the export that
    wrote the files.
    """
    numbers = row.numbers if row else ()
    records = {number.record.key: number.record.digest for number in numbers}
    files = {
        file.relative_to(folder).as_posix(): digests.read(file) for file in weight_files(folder)
    }
    receipt: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "model": name,
        "base": {"name": base, "sha256": _weights_of(row)},
        "steps": list(steps),
        "export": list(export),
        "files": files,
        "records": records,
        "numbers": [_number(number) for number in numbers],
    }
    receipt["digest"] = digests.of(receipt)
    return json.dumps(receipt, indent=1) + "\n"


def _weights_of(row: Row | None) -> str:
    """Return the digest of the original's weights, "" if it is not known."""
    return str(row.model.records[0].key_inputs.get("model") or "") if row else ""


def _number(number: Number) -> dict[str, Any]:
    reading, identity = number.reading, number.record.identity
    found: dict[str, Any] = {
        "metric": reading.metric,
        "unit": reading.unit,
        "better": reading.better,
        "measure": identity.measure,
        "protocol": identity.protocol.label,
        "record": number.record.key,
        "value": number.found.value,
        "low": number.found.low,
        "high": number.found.high,
        "original": number.original,
    }
    if number.change:
        kind = "ratio" if number.is_ratio else "difference"
        found["change"] = number.change._asdict() | {"kind": kind}
    return found
