"""Costs of past artifacts, from the records of a results folder and of the folders beside it."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.planning.artifact import Artifact
from bench.planning.work import Work, estimate_tokens
from methods.contract.errors import UserError

MAX_RECORDS = 3000
"""Number of records to read, the newest first."""


@dataclass(frozen=True)
class TimedPart:
    """One stage or measure of an artifact."""

    kinds: tuple[str, ...]
    """Names of its kind, the most specific first: that of the model before that of any model."""
    work: float
    """Amount that its time is proportional to."""
    seconds: float = 0.0
    instead: tuple[str, ...] = ()
    """Kinds whose rate replaces the rate of `kinds`, if those were never timed."""


@dataclass
class PastCost:
    """Cost of one artifact on one machine, according to its records."""

    machine: tuple[str, ...]
    artifact: str
    parameters: float
    item_bytes: int
    parts: list[TimedPart] = field(default_factory=list)
    peak_bytes: float = 0.0
    """Largest memory. 0: unknown, or of a training."""

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)


def timed_parts(work: Work, artifact: Artifact) -> list[TimedPart]:
    """Return the parts of an artifact that a run has yet to make."""
    parameters, model = artifact.sizes.parameters, artifact.digest
    label = artifact.stages[-1].name if len(artifact.stages) == 1 else ""
    measures = []
    for work_of_one in work.measures:
        m = work_of_one.measurement
        measures.append(
            measure_part(
                m.measure, m.protocol.name, parameters, work_of_one.tokens, model=model, label=label
            )
        )
    stages = [
        stage_part(
            stage.name,
            parameters,
            stage.calibration,
            stage.training,
            model=model,
            steps=stage.steps,
        )
        for stage in work.stages
    ]
    return measures + stages


def measure_part(
    measure: str,
    protocol: str,
    parameters: float,
    tokens: float,
    seconds: float = 0.0,
    *,
    model: str = "",
    label: str = "",
) -> TimedPart:
    """Return the part of a measure. Its work is proportional to the weights and to the tokens that
    it reads.

    model: digest. label: name of the only stage, "dense" for a row that is compared with nothing.
    """
    work, kind = parameters * max(tokens, 1.0), f"measure {measure}"
    kinds = (f"{kind} {protocol} {model}", f"{kind} {protocol}", kind)
    if label == "dense":
        return TimedPart((f"{kinds[0]} dense",), work, seconds, instead=kinds)
    return TimedPart(kinds, work, seconds)


def stage_part(
    name: str,
    parameters: float,
    calibration: float,
    training: float,
    seconds: float = 0.0,
    *,
    model: str = "",
    steps: int = 0,
) -> TimedPart:
    """Return the part of a stage. Its work is proportional to the weights and to its training or
    calibration tokens. model: digest. steps: of its tuning. Each number of steps has
    its rate."""
    need, tokens = "nothing", 0.0
    if training:
        need, tokens = "training", training
    elif calibration:
        need, tokens = "calibration", calibration
    kind = f"stage {name} {need}"
    if steps:
        kind += f" {steps} steps"
    return TimedPart((f"{kind} {model}", kind), parameters * max(tokens, 1.0), seconds)


def machine_of(machine: dict[str, Any], device: str, dtype: str, threads: int) -> tuple[str, ...]:
    """Return what two comparable times share: processor or GPU, number format and threads."""
    about = [machine.get(name) or "" for name in ("cpu", "cpu_model", "instruction_set")]
    card = machine.get("device") if device != "cpu" else ""
    return (*map(str, about), str(card or ""), device, dtype, str(threads))


def read_past(results: Path, *, beside: bool = True) -> list[PastCost]:
    """Read the costs of all artifacts whose measurements are complete. Skip records that cannot be
    read.

    beside: also from the folders beside this one.
    """
    found: dict[tuple[str, Path], list[dict[str, Any]]] = {}
    for path in _files(results.absolute(), beside):
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
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, UserError):
            continue
    return costs


def _files(results: Path, beside: bool) -> list[Path]:
    """Return the records of a folder and of those beside it, the newest first. A folder that cannot
    be read has none."""
    entries: list[tuple[float, str]] = []
    folders = {results / "records"}
    if beside:
        folders.update(results.parent.glob("*/records"))
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as listing:
            for entry in listing:
                if entry.name.endswith(".json") and entry.is_file():
                    entries.append((entry.stat().st_mtime, entry.path))
    return [Path(path) for _, path in sorted(entries, reverse=True)[:MAX_RECORDS]]


def _sizes(records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the number of parameters by the digest of the model."""
    sizes = {}
    for fields in records:
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
            for reading in fields["readings"]:
                if reading["metric"] == "parameters":
                    sizes[fields["key_inputs"]["model"]] = _number(reading["value"])
    return sizes


def _cost_of(records: list[dict[str, Any]], sizes: dict[str, float]) -> Iterator[PastCost]:
    """Yield the cost of an artifact, if one machine and one process made and measured it."""
    making = [r for r in records if "build_s" in r["cost"]]
    if len(making) != 1 or any(r["status"] != "ok" for r in records):
        return
    first, inputs = making[0], making[0]["key_inputs"]
    identity, cost = first["identity"], first["cost"]
    parameters = _number(sizes[inputs["model"]])
    computed_in = identity.get("arithmetic") or identity["dtype"]
    about = (identity["device"], computed_in, inputs["threads"])
    machines = {machine_of(r["provenance"]["machine"], *about) for r in records}
    shared = max(inputs["processes"], (inputs.get("calibration") or {}).get("processes", 1))
    if len(machines) != 1 or shared != 1 or parameters <= 0:
        return
    label = identity["quantizer"]
    if label == "none":
        label = identity["stages"][-1]
    name = label.partition(":")[0]
    calibration, training = _number(cost["calibration_tokens"]), _number(cost["training_tokens"])
    item_bytes = 4 if computed_in == "float32" else 2
    past = PastCost(machines.pop(), first["artifact"], parameters, item_bytes)
    built = _number(cost["build_s"])
    model = str(inputs["model"])
    steps = _steps_of(inputs["stages"][-1])
    past.parts.append(
        stage_part(name, parameters, calibration, training, built, model=model, steps=steps)
    )
    for record in records:
        measure, cost = record["identity"]["measure"], record["cost"]
        estimated = 0
        with contextlib.suppress(TypeError, UserError):  # this version does not have such a measure
            estimated = estimate_tokens(measure, record["key_inputs"]["measure"]["config"])
        tokens = estimated or _number(cost.get("tokens") or 0)
        protocol = record["identity"]["protocol"]["name"]
        wall = _number(cost["wall_s"])
        part = measure_part(measure, protocol, parameters, tokens, wall, model=model, label=name)
        past.parts.append(part)
        if training:
            continue
        for peak in ("peak_bytes", "build_peak_bytes"):
            past.peak_bytes = max(past.peak_bytes, _number(cost.get(peak) or 0))
    yield past


def _steps_of(stage: dict[str, Any]) -> int:
    """Return the steps of a recorded stage's tuning, 0 if it has none or is no quantizer of this
    version."""
    with contextlib.suppress(UserError):
        cost = registry.lookup("quantizers", stage["name"]).cost
        return int(stage["config"].get(cost.tuning, 0)) if cost else 0
    return 0


def _number(value: Any) -> float:
    """Return a cost, or raise TypeError, ValueError or OverflowError if the value cannot be a
    cost."""
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError("no cost")
    return number
