"""Divide a plan among machines that run the same command, each with its own `--shard`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace

from bench.planning.artifact import Measurement
from bench.planning.estimate import count_operations
from bench.planning.plan import Plan
from bench.planning.spec import Spec
from methods.errors import UserError

MAX_SHARDS = 10_000
SLURM = "slurm"


def parse_shard(text: str) -> tuple[int, int]:
    """Read "2/4", the second of four; or "slurm", the part of this task of a Slurm array.

    Raises:
        UserError: anything else; or this is no task of an array.
    """
    if text == SLURM:
        text = _slurm_task()
    match = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count <= MAX_SHARDS:
        raise UserError(
            f"invalid shard {text!r}: give which of how many, from 1/N to N/N, for example 2/4; at most {MAX_SHARDS}"
        )
    return index, count


def _slurm_task() -> str:
    try:
        index, first, count = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT"))
    except (KeyError, ValueError):
        raise UserError(
            "--shard slurm is for a task of a Slurm array, and $SLURM_ARRAY_TASK_ID, _MIN and _COUNT are not set: "
            "submit the script of bench plan --slurm FILE with sbatch, or give --shard I/N"
        ) from None
    return f"{index - first + 1}/{count}"


def check_shard(spec: Spec) -> None:
    """Before a plan is made of it.

    Raises:
        UserError: as `parse_shard`.
    """
    if spec.shard is not None:
        parse_shard(spec.shard)


def own_shard(plan: Plan) -> Plan:
    """The part of a plan that its spec asks for."""
    if plan.spec.shard is None:
        return plan
    index, count = parse_shard(plan.spec.shard)
    return divide(plan, count)[index - 1]


def divide(plan: Plan, count: int) -> list[Plan]:
    """`count` plans with every artifact in one of them, about equal in arithmetic: the longest first, to the lightest shard.

    Artifacts that share their last pruning stage, as a model and its quantized versions do, stay together, so that it is
    made once. What is recorded already does not matter, nor does the machine: every shard comes to the same division.
    """
    groups: dict[str, list[list[Measurement]]] = {}
    for measurements in plan.artifacts().values():
        artifact = measurements[0].artifact
        pruned = artifact.up_to(sum(stage.kind == "methods" for stage in artifact.stages))
        groups.setdefault(pruned.key, []).append(measurements)
    work = {key: count_operations(group) for key, group in groups.items()}
    shards: list[set[str]] = [set() for _ in range(count)]
    loads = [0.0] * count
    for key in sorted(groups, key=lambda key: (-work[key], key)):
        lightest = loads.index(min(loads))
        shards[lightest] |= {measurements[0].artifact.key for measurements in groups[key]}
        loads[lightest] += work[key]
    return [_only(plan, shard) for shard in shards]


def _only(plan: Plan, artifacts: Collection[str]) -> Plan:
    """The measurements of these artifacts, in the order of the plan."""
    return replace(plan, measurements=tuple(m for m in plan.measurements if m.artifact.key in artifacts))
