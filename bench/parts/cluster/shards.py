"""Division of a plan among machines that run the same command, each with a different `--shard`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from bench.planning.artifact import Artifact, Measurement, Plan
from bench.planning.work import count_operations
from bench.system.grouping import group_by
from methods.contract.errors import UserError


def choose_shard(text: str) -> Callable[[Plan], Plan]:
    """Read "2/4", the second of four, or raise UserError. Return a function that takes this part of
    a plan. It is the service `shard`."""
    match = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise UserError(f"invalid shard {text!r}: give I/N with I from 1 to N, for example 2/4")
    return lambda plan: divide(plan, count)[index - 1]


def _name(artifact: Artifact) -> tuple[str, ...]:
    """Return what tells artifacts of a plan apart on every machine. A key has the number of
    threads, for example."""
    stages = [
        f"{stage.label} {stage.pattern}" for stage in artifact.stages if stage.kind == "methods"
    ]
    return (artifact.digest, *stages, str(artifact.seed))


def divide(plan: Plan, count: int) -> list[Plan]:
    """Divide a plan into `count` plans with about equal work: assign the largest artifact first, to
    the smallest plan.

    Artifacts with the same last pruning stage stay together, such as a model and its quantized
    versions. So the stage is computed once. The division depends on neither records nor machine, so
    every machine computes the same one.
    """

    groups = group_by(plan.artifacts().values(), _pruned_key)
    work = {key: count_operations(group) for key, group in groups.items()}
    largest_first = sorted(groups, key=lambda key: (-work[key], _name(groups[key][0][0].artifact)))
    shards: list[set[str]] = [set() for _ in range(count)]
    loads = [0.0] * count
    for key in largest_first:
        lightest = loads.index(min(loads))
        shards[lightest] |= {measurements[0].artifact.key for measurements in groups[key]}
        loads[lightest] += work[key]
    plans = []
    for shard in shards:
        chosen = tuple(m for m in plan.measurements if m.artifact.key in shard)
        plans.append(replace(plan, measurements=chosen))
    return plans


def _pruned_key(measurements: list[Measurement]) -> str:
    """Return the key of an artifact's last pruning stage."""
    artifact = measurements[0].artifact
    return artifact.up_to(sum(stage.kind == "methods" for stage in artifact.stages)).key
