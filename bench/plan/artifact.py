"""What a run is made of: artifacts, a model and the stages it goes through, and cells, one measure of one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from bench.system import digests
from bench.system.provenance import VERSION


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Stage(_Frozen):
    """A method with its config and pattern."""

    name: str
    label: str
    """As typed."""
    target: str
    """module:Class"""
    source: str
    """Digest of the code."""
    config: dict[str, Any]
    pattern: str
    random: bool
    needs: tuple[str, ...]
    version: str = VERSION
    kind: str = "methods"
    """What the catalog lists it under."""


class CalibrationSet(_Frozen):
    """Which calibration tokens."""

    data: str
    content: str
    """Digest of the text."""
    sequences: int
    seqlen: int


class TrainingRun(_Frozen):
    """Which training: `tokens` of `data` in steps of `batch` sequences of `seqlen`."""

    data: str
    content: str
    """Digest of the text, or its revision."""
    recipe: str
    tokens: int
    batch: int
    seqlen: int
    micro: int | None

    @property
    def told(self) -> str:
        """In words: what two trainings that may be compared share."""
        return f"{self.data}@{self.seqlen}x{self.batch}, {self.tokens:,} tokens"


class Artifact(_Frozen):
    """A model and the stages it goes through; folder and data_dir say where, and are no part of the key."""

    model: str
    folder: Path
    data_dir: Path | None
    digest: str
    tokenizer: str
    revision: str
    stages: tuple[Stage, ...]
    calibration: CalibrationSet | None
    training: TrainingRun | None = None
    processes: int = 1
    """That share a training."""
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    seed: int | None
    """None where no stage is random."""
    dtype: str
    device: str
    threads: int
    stream: bool

    def determinants(self) -> dict[str, Any]:
        """All that decides the weights."""
        return {
            "model": self.digest,
            "stages": [s.model_dump(exclude={"label", "target", "random", "needs", "kind"}) for s in self.stages],
            "calibration": self.calibration.model_dump() | {"tokenizer": self.tokenizer} if self.calibration else None,
            "training": self.training.model_dump(exclude={"recipe"}) | {"tokenizer": self.tokenizer}
            if self.training
            else None,
            "targets": [self.include, self.exclude],
            "seed": self.seed,
            "dtype": self.dtype,
            "device": self.device.split(":")[0],
            "threads": self.threads,
            "processes": self.processes,
        }

    @property
    def key(self) -> str:
        return digests.of(self.determinants())

    @property
    def method(self) -> str:
        return " + ".join(s.label for s in self.stages if s.kind == "methods")

    @property
    def quantizer(self) -> str:
        return self.stages[-1].label if self.stages[-1].kind == "quantizers" else "none"

    @property
    def pruner(self) -> Stage:
        """The last stage that is no quantizer."""
        return [s for s in self.stages if s.kind == "methods"][-1]

    @property
    def done(self) -> str:
        """Every stage, as typed."""
        return " + ".join(s.label for s in self.stages)

    @property
    def told(self) -> str:
        """In words: the model, what is done to it, and the seed."""
        return f"{self.model} {self.done}" + (f" seed {self.seed}" if self.seed is not None else "")

    @property
    def pattern(self) -> str:
        return self.stages[-1].pattern

    def up_to(self, count: int) -> Artifact:
        """The artifact after its first `count` stages."""
        stages = self.stages[:count]
        calibrated = any("calibration" in s.needs for s in stages)
        trained = any("training" in s.needs for s in stages)
        random = any(s.random for s in stages)
        return self.model_copy(
            update={
                "stages": stages,
                "calibration": self.calibration if calibrated else None,
                "training": self.training if trained else None,
                "processes": self.processes if trained else 1,
                "seed": self.seed if random else None,
            }
        )


class Measurement(_Frozen):
    """One measure of one artifact: one record."""

    artifact: Artifact
    measure: str
    target: str
    source: str
    config: dict[str, Any]
    protocol: str
    content: str
    """Digest of the data measured on."""

    @property
    def told(self) -> str:
        """In words, while a run goes on: the measure, and the task of one that has many."""
        return " ".join(filter(None, (self.measure, self.config.get("task"))))

    def determinants(self) -> dict[str, Any]:
        config = {k: v for k, v in self.config.items() if v is not None}
        measure = {"name": self.measure, "source": self.source, "config": config, "content": self.content}
        out = self.artifact.determinants() | {"tokenizer": self.artifact.tokenizer, "measure": measure}
        if hardware := self.config.get("hardware"):
            out["hardware"] = hardware  # a time of another machine is another number
        return out

    @property
    def key(self) -> str:
        return digests.of(self.determinants())

    @property
    def slot(self) -> dict[str, Any]:
        """What the number is called, whatever the version of what made it: two commits meet here."""
        a = self.artifact
        return {
            "model": a.model,
            "method": a.method,
            "pattern": a.pattern,
            "quantizer": a.quantizer,
            "seed": a.seed,
            "measure": self.measure,
            "protocol": self.protocol,
            "calibration": f"{a.calibration.data}@{a.calibration.seqlen}x{a.calibration.sequences}"
            if a.calibration
            else None,
            "training": a.training.told if a.training else None,
            "targets": [list(a.include), list(a.exclude)],
            "dtype": a.dtype,
            "device": a.device.split(":")[0],
        }


def names(artifact: Artifact) -> list[str]:
    """What entries of an artifact are called, and of each stage before its last."""
    return [artifact.up_to(count + 1).key[:32] for count in range(len(artifact.stages))]
