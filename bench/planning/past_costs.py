"""What artifacts have taken, from the records of a results folder and of those beside it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.inputs import tasks
from methods.errors import UserError

MAX_RECORDS = 3000
"""The newest are read."""
MAX_BYTES = 2**22
"""Of a record; longer ones hold long curves."""


@dataclass(frozen=True)
class Part:
    """A stage or a measure of an artifact. kinds: what it is, the most specific first; work: what its time goes with."""

    kinds: tuple[str, ...]
    work: float
    seconds: float = 0.0


@dataclass
class PastCost:
    """What one artifact took on one machine, so far as its records say."""

    machine: tuple[str, ...]
    artifact: str
    parameters: float
    item_bytes: int
    parts: list[Part] = field(default_factory=list)
    peak_bytes: float = 0.0
    trains: bool = False

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)


def measure_part(measure: str, task: str, parameters: float, tokens: float, seconds: float = 0.0) -> Part:
    kinds = (f"measure {measure} {task}", f"measure {measure}") if task else (f"measure {measure}",)
    return Part(kinds, parameters * max(tokens, 1.0), seconds)


def stage_part(name: str, parameters: float, calibration: float, training: float, seconds: float = 0.0) -> Part:
    """A stage's work goes with its tokens, of training or else of calibration, and where it has none with the weights."""
    need = "training" if training else "calibration" if calibration else "nothing"
    return Part((f"stage {name} {need}", f"stage {need}"), parameters * max(training or calibration, 1.0), seconds)


def machine_of(machine: dict[str, Any], device: str, dtype: str, threads: int) -> tuple[str, ...]:
    """What two times share that may be compared: the processor or card, the number format, the threads."""
    about = [machine.get(name) or "" for name in ("cpu", "cpu_model", "instruction_set")]
    card = machine.get("device") if device != "cpu" else ""
    return (*map(str, about), str(card or ""), device, dtype, str(threads))


def read_past(results: Path, *, beside: bool = True) -> list[PastCost]:
    """Costs of artifacts with all their measurements done, whatever the machine. A record that cannot be read counts for none.

    beside: read the folders beside it, too.
    """
    found: dict[tuple[str, Path], list[dict[str, Any]]] = {}
    for path in _files([results, *(_beside(results) if beside else ())]):
        try:
            fields = json.loads(path.read_bytes())
            found.setdefault((str(fields["artifact"]), path.parent), []).append(fields)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    sizes = _sizes(fields for records in found.values() for fields in records)
    costs: list[PastCost] = []
    for records in found.values():
        try:
            costs += _cost_of(records, sizes)
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            UserError,
        ):  # of an older schema, or of a task that is gone
            continue
    return costs


def _files(roots: Iterable[Path]) -> list[Path]:
    folders = [root / "records" for root in roots]
    entries: list[tuple[float, str]] = []
    for folder in folders:
        if folder.is_dir():
            with os.scandir(folder) as listing:
                for entry in listing:
                    if (
                        entry.name.endswith(".json")
                        and entry.is_file()
                        and (about := entry.stat()).st_size <= MAX_BYTES
                    ):
                        entries.append((about.st_mtime, entry.path))
    return [Path(path) for _, path in sorted(entries, reverse=True)[:MAX_RECORDS]]


def _beside(results: Path) -> Iterable[Path]:
    try:
        return [f for f in results.absolute().parent.iterdir() if (f / "records").is_dir() and f != results.absolute()]
    except OSError:
        return []


def _sizes(records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Parameters by the digest of the model, from what its packed weights take."""
    sizes = {}
    for fields in records:
        try:
            readings = {r["metric"]: _number(r["value"]) for r in fields["readings"]} if fields["readings"] else {}
            if readings.get("bits_per_weight"):
                sizes[fields["key_inputs"]["model"]] = 8 * readings["bytes_packed"] / readings["bits_per_weight"]
        except (KeyError, TypeError, ValueError):
            continue
    return sizes


def _cost_of(records: list[dict[str, Any]], sizes: dict[str, float]) -> Iterator[PastCost]:
    """One, or nothing where not all of it was measured on one machine, or where the making is not known."""
    making = [r for r in records if r["identity"]["measure"] == "pattern" and "build_s" in r["cost"]]
    if len(making) != 1 or any(r["status"] != "ok" for r in records):
        return
    first, inputs = making[0], making[0]["key_inputs"]
    identity, cost = first["identity"], first["cost"]
    parameters = _number(sizes[inputs["model"]])
    machines = {
        machine_of(r["provenance"]["machine"], identity["device"], identity["dtype"], inputs["threads"])
        for r in records
    }
    shared = max(inputs["processes"], (inputs.get("calibration") or {}).get("processes", 1))
    if len(machines) != 1 or shared != 1 or parameters <= 0:
        return
    quantizer = identity["quantizer"]
    name = (quantizer if quantizer != "none" else identity["stages"][-1]).partition(":")[0]
    calibration, training = _number(cost["calibration_tokens"]), _number(cost["training_tokens"])
    past = PastCost(
        machines.pop(), first["artifact"], parameters, 4 if identity["dtype"] == "float32" else 2, trains=training > 0
    )
    past.parts.append(stage_part(name, parameters, calibration, training, _number(cost["build_s"])))
    for record in records:
        config = record["key_inputs"]["measure"]["config"]
        tokens = _number(record["cost"].get("tokens") or 0)
        task = str(config.get("task", ""))
        if task:
            tokens = tasks.estimate_tokens(task, config.get("limit"))  # as for one that is planned
        seconds = _number(record["cost"]["wall_s"])
        past.parts.append(measure_part(record["identity"]["measure"], task, parameters, tokens, seconds))
        past.peak_bytes = max(
            past.peak_bytes, *(_number(record["cost"].get(n) or 0) for n in ("peak_bytes", "build_peak_bytes"))
        )
    yield past


def _number(value: Any) -> float:
    """
    Raises:
        TypeError, ValueError: it is none that a cost can be.
    """
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not 0 <= number < math.inf:
        raise ValueError("no cost")
    return number
