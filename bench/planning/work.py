"""Work of an artifact, counted from its shapes: the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bench.catalog import registry
from bench.planning.artifact import Artifact, Measurement, Stage


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
    return sum(count_work(measurements, made).operations for measurements in artifacts)


def count_work(measurements: list[Measurement], made: set[str]) -> Work:
    """Return the work of one artifact, without the stages in `made`, and add its stages to them.

    made: names of stages in the cache.
    """
    artifact = measurements[0].artifact
    measures = [
        (m, m.options.get("tokens") or estimate_tokens(m.measure, m.config)) for m in measurements
    ]
    # Measures with one protocol read the same windows in one pass.
    tokens = passes = sum({m.protocol: count for m, count in measures}.values())
    stages = []
    for name, stage in zip(artifact.cache_names, artifact.stages, strict=True):
        if name in made:
            continue
        made.add(name)
        calibration, training = _tokens_of(stage, artifact)
        tokens += calibration + training
        work = StageWork(stage.name, *_of_one_process(calibration, training, artifact))
        # A calibration takes two passes over the blocks, and about one for the Hessians. A training
        # takes one pass forward, two backward, and one of the teacher.
        passes += 3 * work.calibration + 4 * work.training
        stages.append(work)
    operations = 2.0 * artifact.sizes.parameters * passes
    return Work(tokens, operations, tuple(stages), tuple(measures))


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
    if artifact.device == "cpu":
        return calibration, training // artifact.nodes
    sharing = artifact.calibration.processes if artifact.calibration else 1
    return calibration // sharing, training // artifact.processes
