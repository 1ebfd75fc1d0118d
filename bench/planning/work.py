"""Work of an artifact, counted from its shapes: the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bench.catalog import registry
from bench.planning.artifact import Artifact, Measurement, Stage
from methods.contract.info import DISTILLATION, Cost

PASSES = 2
"""Forward passes over the calibration tokens of a stage that does not state them."""
TUNING_PASSES = 4
"""Forward passes more for a tuning: a Hessian for each of 4 inputs of a block, and the dense
block."""
TUNING = 4 * 6 + 2 * DISTILLATION.training
"""FLOP per weight and token of a tuning step: of 4 inputs of a block, and of 2 steps at the end."""


LOGIT_OPERATIONS = 300
"""float32 operations that take a CPU as long as a measure beside the dense model does for a logit:
5 ns on one thread of Zen 5."""


class Arithmetic(NamedTuple):
    """Arithmetic of one process."""

    operations: float = 0.0
    """Floating-point operations."""
    float32: float = 0.0
    """Part of `operations` that is float32 in any number format: Hessians and distances of
    logits."""
    launches: float = 0.0
    """Kernels that run one after the other, for single columns of weights."""


class StageWork(NamedTuple):
    """Tokens that one process of a stage reads, and its arithmetic."""

    name: str
    calibration: int
    training: int
    arithmetic: Arithmetic
    steps: int = 0
    """Steps of its tuning."""


class MeasureWork(NamedTuple):
    """A measurement, about how many tokens it reads, and the arithmetic that it adds to those
    before it."""

    measurement: Measurement
    tokens: int
    arithmetic: Arithmetic


class Work(NamedTuple):
    """Work of one artifact."""

    tokens: int
    """Tokens that all processes read."""
    stages: tuple[StageWork, ...]
    measures: tuple[MeasureWork, ...]

    @property
    def operations(self) -> float:
        """Floating-point operations of one process."""
        return sum(part.operations for part in self.arithmetic)

    @property
    def arithmetic(self) -> list[Arithmetic]:
        """Arithmetic of each measure, then of each stage."""
        return [m.arithmetic for m in self.measures] + [s.arithmetic for s in self.stages]


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
    sizes, parameters = artifact.sizes, float(artifact.sizes.parameters)
    # A calibration ends at the last block.
    in_blocks = parameters - sizes.outside
    is_dense = all(stage.name == "dense" for stage in artifact.stages)
    logits = 0 if is_dense else sizes.vocabulary
    measures, tokens, protocols, beside = [], 0, set(), set()
    for m in measurements:
        read = m.options.get("tokens") or estimate_tokens(m.measure, m.config)
        # Measures with one protocol read the same windows in one pass.
        more = 0 if m.protocol in protocols else read
        protocols.add(m.protocol)
        tokens += more
        forward, distances = 2.0 * sizes.multiplied * more, 0.0
        if getattr(registry.load(registry.lookup("measures", m.measure)), "beside_dense", False):
            # The dense model's states are in the cache, but its head runs.
            forward += 2.0 * logits * sizes.hidden * (0 if m.protocol in beside else read)
            beside.add(m.protocol)
            distances = float(LOGIT_OPERATIONS * logits * read)
        measures.append(MeasureWork(m, read, Arithmetic(forward + distances, distances)))
    stages = []
    for name, stage in zip(artifact.cache_names, artifact.stages, strict=True):
        if name in made:
            continue
        made.add(name)
        calibration, training = _tokens_of(stage, artifact)
        tokens += calibration + training
        calibration, training = _of_one_process(calibration, training, artifact)
        cost = stage.entry.cost or Cost()
        per_token = (cost.training or DISTILLATION.training) + 2 * stage.recomputes
        # A Hessian is symmetric, so it takes T in^2 / 2 products and as many sums.
        hessians = cost.hessians * sizes.squares * calibration
        passes, tuning = cost.passes or PASSES, 0
        if stage.tuning_steps and artifact.calibration:
            passes += TUNING_PASSES
            tuning = stage.tuning_steps * artifact.calibration.seqlen
        operations = 2.0 * in_blocks * passes * calibration + hessians
        operations += parameters * TUNING * tuning
        operations += parameters * per_token * training
        launches = cost.launches * sizes.columns / _sharing(artifact)
        arithmetic = Arithmetic(operations, hessians, launches)
        stages.append(StageWork(stage.name, calibration, training, arithmetic, stage.tuning_steps))
    return Work(tokens, tuple(stages), tuple(measures))


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
