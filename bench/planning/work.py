"""Work of an artifact, counted from its shapes: the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bench.catalog import registry
from bench.planning.artifact import Artifact, Measurement, Stage
from methods.contract.info import DISTILLATION, Cost

PASSES = 2
"""Forward passes over the calibration tokens of a stage that does not state them."""


class StageWork(NamedTuple):
    """Tokens that one process of a stage reads."""

    name: str
    calibration: int
    training: int


class Work(NamedTuple):
    """Work of one artifact."""

    tokens: int
    """Tokens that all processes read."""
    operations: float
    """Floating-point operations of one process."""
    hessians: float
    """Part of `operations` for Hessians, which are float32 products in any number format."""
    launches: float
    """Kernels that one process runs one after the other, for single columns of weights."""
    stages: tuple[StageWork, ...]
    measures: tuple[tuple[Measurement, int], ...]
    """Each measurement, and about how many tokens it reads."""


def estimate_tokens(measure: str, config: dict[str, Any]) -> int:
    """Return about how many tokens a measure reads, 0 if it does not say. Raise UserError or
    TypeError if it is unknown."""
    kind = registry.load(registry.lookup("measures", measure))
    return int(getattr(kind(**config), "estimated_tokens", 0))


def count_operations(artifacts: Iterable[list[Measurement]]) -> float:
    """Estimate the floating-point operations of all measurements."""
    made: set[str] = set()
    works = (count_work(some[0].artifact, some, made) for some in artifacts)
    return sum(work.operations for work in works)


def count_work(artifact: Artifact, measurements: list[Measurement], made: set[str]) -> Work:
    """Return the work of one artifact, without the stages in `made`, and add its stages to them.

    made: names of stages in the cache.
    """
    measures = [
        (m, m.options.get("tokens") or estimate_tokens(m.measure, m.config)) for m in measurements
    ]
    # Measures with one protocol read the same windows in one pass.
    tokens = sum({m.protocol: count for m, count in measures}.values())
    sizes, parameters = artifact.sizes, float(artifact.sizes.parameters)
    operations, hessians, launches = 2.0 * parameters * tokens, 0.0, 0.0
    stages = []
    for name, stage in zip(artifact.cache_names, artifact.stages, strict=True):
        if name in made:
            continue
        made.add(name)
        calibration, training = _tokens_of(stage, artifact)
        tokens += calibration + training
        work = StageWork(stage.name, *_of_one_process(calibration, training, artifact))
        stages.append(work)
        cost = stage.entry.cost or Cost()
        operations += 2.0 * parameters * (cost.passes or PASSES) * work.calibration
        per_token = (cost.training or DISTILLATION.training) + 2 * stage.recomputes
        operations += parameters * per_token * work.training
        # A Hessian is symmetric, so it takes T in^2 / 2 products and as many sums.
        hessians += cost.hessians * sizes.squares * work.calibration
        launches += cost.launches * sizes.columns / _sharing(artifact)
    return Work(tokens, operations + hessians, hessians, launches, tuple(stages), tuple(measures))


def _tokens_of(stage: Stage, artifact: Artifact) -> tuple[int, int]:
    """Return the tokens of a stage's calibration and of its training."""
    calibration = training = 0
    if "calibration" in stage.needs and artifact.calibration:
        calibration = artifact.calibration.sequences * artifact.calibration.seqlen
    if "training" in stage.needs and artifact.training:
        training = artifact.training.tokens
    return calibration, training


def _of_one_process(calibration: int, training: int, artifact: Artifact) -> tuple[int, int]:
    """Divide a stage's tokens among its processes. Those of one CPU share its cores, and so save
    no time."""
    parts = artifact.nodes if artifact.device == "cpu" else artifact.processes
    return calibration // _sharing(artifact), training // parts


def _sharing(artifact: Artifact) -> int:
    """Return the number of processes that divide a calibration and its linears, and save time."""
    return 1 if artifact.device == "cpu" else artifact.calibration_ranks
