"""Artifacts, measurements and plans. An artifact is a model and its stages. A measurement is one
measure of one artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from bench.catalog import registry
from bench.catalog.declarations import CatalogEntry
from bench.inputs.bos import Bos
from bench.planning.sizes import ModelSizes
from bench.planning.spec import Spec
from bench.results.identity import CalibrationText, Identity, Protocol, TrainingText, chain_label
from bench.system import digests
from bench.system.grouping import group_by
from bench.system.provenance import VERSION
from methods.contract.info import Link


class EmbeddingFormat(BaseModel, frozen=True):
    """Format of the embedding or of the head in a quantized model."""

    name: str
    source: str
    """Digest of the code."""


class Stage(BaseModel, frozen=True):
    """Method with its settings and pattern."""

    name: str
    label: str
    """Method as the user typed it."""
    target: str
    """Class as MODULE:CLASS. MODULE is the absolute path of a file that the user named."""
    source: str
    """Digest of the code."""
    config: dict[str, Any]
    needs: tuple[str, ...]
    pattern: str = ""
    version: str = VERSION
    kind: str = "methods"
    """Section of the catalog: methods or quantizers."""
    outer: dict[str, EmbeddingFormat] = {}
    """Formats of the embedding and of the head, by "embed" and "head". Empty for those of the
    model."""

    def key_inputs(self) -> dict[str, Any]:
        """Return everything that decides the result of the stage."""
        unset = set() if self.outer else {"outer"}
        return self.model_dump(exclude={"label", "target", "needs", "kind"} | unset)

    def model_post_init(self, context: Any) -> None:
        """Let a worker find a class in a file that the user named."""
        registry.use_file(self.kind, self.name, self.target)

    @property
    def entry(self) -> CatalogEntry:
        """Entry of the method in the catalog."""
        return registry.lookup(self.kind, self.name)

    @property
    def link(self) -> Link:
        """The stage as the methods of a chain see it."""
        return self.entry.link(self.name, self.label, self.config)

    @property
    def recomputes(self) -> bool:
        """True if its training forgets activations and computes them again in the backward pass."""
        return bool(self.config.get("recompute"))

    @property
    def tuning_steps(self) -> int:
        """Steps of training in a block after each of its inputs, 0 without `Cost.tuning`."""
        cost = self.entry.cost
        return int(self.config.get(cost.tuning, 0)) if cost else 0

    @property
    def random(self) -> bool:
        """True if a seed decides its result."""
        draws = any(rule.draws(self.config) for rule in self.entry.rules)
        return draws or bool({"calibration", "training"} & set(self.needs))


class CalibrationSet(BaseModel, frozen=True):
    data: str
    content: str
    """Digest of the text."""
    source: str
    """Digest of the code that draws it."""
    sequences: int
    seqlen: int
    all_experts: bool = False
    processes: int = 1
    """Number of processes that share the calibration."""
    bos: Bos = ""
    packing: Literal["", "starts", "stream"] = ""
    """How sequences are cut from documents. Empty: as random crops."""

    @property
    def text(self) -> CalibrationText:
        return CalibrationText(**self.model_dump(include={*CalibrationText.model_fields}))


class TrainingRun(BaseModel, frozen=True):
    """Training on `tokens` tokens of `data`, in steps of `batch` sequences of `seqlen` tokens."""

    data: str
    content: str
    """Digest or revision of the text."""
    source: str
    """Digest of the code that cuts it into batches."""
    recipe: str
    """Name of the recipe, if it is not the one for the model's size. Not part of the key, which has
    the stages' settings."""
    tokens: int
    batch: int
    seqlen: int
    micro: int | None
    bos: Bos = ""

    @property
    def text(self) -> TrainingText:
        """Part that two trainings must share to be compared."""
        return TrainingText(**self.model_dump(include={*TrainingText.model_fields}))


class Artifact(BaseModel, frozen=True):
    """Model and its stages. The key has its content, not the places `folder` and `data_dir`, and
    not what follows from it."""

    model: str
    family: str
    """Name of the architecture, as in the config."""
    sizes: ModelSizes
    folder: Path
    data_dir: Path | None
    digest: str
    tokenizer: str
    companions: str
    """Digest of the files that the pruned folder copies from the model."""
    revision: str
    terms: str = ""
    """Terms of use of the model, which records name. Not part of the key."""
    loader: str
    """Digest of the code that reads models."""
    stages: tuple[Stage, ...]
    calibration: CalibrationSet | None
    training: TrainingRun | None = None
    processes: int = 1
    """Number of processes that share a training."""
    nodes: int = 1
    """Number of machines that share a training. Not part of the key."""
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    seed: int | None
    """Random seed. None: no stage is random."""
    dtype: str
    """Number format of the weights on disk."""
    arithmetic: str = ""
    """Number format of the loaded weights and of the arithmetic. "": `dtype`."""
    device: str
    threads: int
    stream: bool
    max_memory: float | None = None
    """Limit in GB of main memory. Not part of the key."""
    checkpoint_s: float = 300
    """Seconds between two checkpoints of a training. Not part of the key."""

    def key_inputs(self) -> dict[str, Any]:
        """Return everything that decides the content of the artifact's folder."""
        made = {"tokenizer": self.tokenizer}
        calibration = training = None
        if self.calibration:
            calibration = self.calibration.model_dump(exclude_defaults=True) | made
        if self.training:
            training = self.training.model_dump(exclude={"recipe"}, exclude_defaults=True) | made
        inputs = {
            "model": self.digest,
            "companions": self.companions,
            "loader": self.loader,
            "stages": [stage.key_inputs() for stage in self.stages],
            "calibration": calibration,
            "training": training,
            "targets": [self.include, self.exclude],
            "seed": self.seed,
            "dtype": self.dtype,
            "device": self.device.split(":")[0],
            "threads": self.threads,
            "processes": self.processes,
        }
        if self.arithmetic:
            inputs["arithmetic"] = self.arithmetic
        return inputs

    @property
    def key(self) -> str:
        return digests.of(self.key_inputs())

    @property
    def computed_in(self) -> str:
        """Number format of the loaded weights and of the arithmetic."""
        return self.arithmetic or self.dtype

    @property
    def method(self) -> str:
        return chain_label([s.label for s in self.stages if s.kind == "methods"])

    @property
    def quantizer(self) -> str:
        return self.stages[-1].label if self.stages[-1].kind == "quantizers" else "none"

    @property
    def pruner(self) -> Stage:
        """Last stage that is not a quantizer."""
        return [s for s in self.stages if s.kind == "methods"][-1]

    @property
    def stage_labels(self) -> str:
        """All stages in order, the quantizer too."""
        return chain_label([s.label for s in self.stages])

    @property
    def label(self) -> str:
        """Model, stages and seed."""
        seed = f" seed {self.seed}" if self.seed is not None else ""
        return f"{self.model} {self.stage_labels}{seed}"

    @property
    def pattern(self) -> str:
        return self.stages[-1].pattern

    @property
    def calibration_ranks(self) -> int:
        """Number of processes that share the calibration."""
        return self.calibration.processes if self.calibration else 1

    @property
    def ranks(self) -> int:
        """Number of processes that share the last stage."""
        needs = self.stages[-1].needs
        if "training" in needs:
            return self.processes
        return self.calibration_ranks if "calibration" in needs else 1

    @property
    def spread(self) -> int:
        """Number of machines that share the last stage."""
        return self.nodes if "training" in self.stages[-1].needs else 1

    @property
    def most_ranks(self) -> int:
        """Largest number of processes that share a stage."""
        return max(self.processes, self.calibration_ranks)

    @property
    def ranks_per_node(self) -> int:
        """Largest number of processes that share a stage on one machine. Each node calibrates by
        itself."""
        return max(-(-self.processes // self.nodes), self.calibration_ranks)

    @property
    def rank_threads(self) -> int:
        """Number of CPU threads of each process that shares the last stage."""
        return max(1, self.threads * self.spread // self.ranks)

    def device_of(self, card: int) -> str:
        """Return the device of a process. card: number of its card on its machine."""
        if self.most_ranks > 1 and self.device.startswith("cuda"):
            return f"cuda:{card}"
        return self.device

    @property
    def cache_names(self) -> list[str]:
        """Names of the cache entries after each stage."""
        return [self.up_to(count + 1).key[:32] for count in range(len(self.stages))]

    @property
    def lock_name(self) -> str:
        """Name of the last stage's lock and checkpoints, for any number of processes."""
        return self.model_copy(update={"processes": 1}).key[:32]

    def up_to(self, count: int) -> Artifact:
        """Return the artifact after its first `count` stages."""
        stages = self.stages[:count]
        fields: dict[str, Any] = {"stages": stages}
        if not any("calibration" in s.needs for s in stages):
            fields["calibration"] = None
        if not any("training" in s.needs for s in stages):
            fields |= {"training": None, "processes": 1, "nodes": 1}
        if not any(s.random for s in stages):
            fields["seed"] = None
        return self.model_copy(update=fields)


class Measurement(BaseModel, frozen=True):
    """One measure of one artifact. It makes one record."""

    artifact: Artifact
    measure: str
    target: str
    source: str
    config: dict[str, Any]
    protocol: Protocol
    content: str
    """Digest of the data that is measured on."""
    options: dict[str, Any] = {}
    """Settings that change no number. Not part of the key."""
    imports: tuple[str, ...] = ()
    """Modules that a worker should import early. Not part of the key."""

    def model_post_init(self, context: Any) -> None:
        """Let a worker find a class in a file that the user named."""
        registry.use_file("measures", self.measure, self.target)

    @property
    def label(self) -> str:
        """Name of the measure, and of its task."""
        return " ".join(filter(None, (self.measure, self.config.get("task"))))

    def key_inputs(self) -> dict[str, Any]:
        config = {k: v for k, v in self.config.items() if v is not None}
        measure = {
            "name": self.measure,
            "source": self.source,
            "config": config,
            "content": self.content,
        }
        out = self.artifact.key_inputs() | {
            "tokenizer": self.artifact.tokenizer,
            "measure": measure,
        }
        hardware = self.config.get("hardware")
        if hardware:
            out["hardware"] = hardware
        return out

    @property
    def key(self) -> str:
        return digests.of(self.key_inputs())

    @property
    def identity(self) -> Identity:
        a = self.artifact
        return Identity(
            model=a.model,
            stages=tuple(s.label for s in a.stages if s.kind == "methods"),
            pattern=a.pattern,
            quantizer=a.quantizer,
            seed=a.seed,
            measure=self.measure,
            protocol=self.protocol,
            calibration=a.calibration.text if a.calibration else None,
            training=a.training.text if a.training else None,
            include=a.include,
            exclude=a.exclude,
            dtype=a.dtype,
            arithmetic=a.arithmetic,
            device=a.device.split(":")[0],
        )


@dataclass(frozen=True)
class Plan:
    spec: Spec
    measurements: tuple[Measurement, ...]
    """Measurements in order, artifact by artifact."""
    to_pull: tuple[str, ...]
    """Known models that are not downloaded. Those whose shapes are known are planned."""
    jobs: int = 1
    """Number of artifacts to make in parallel."""
    devices: tuple[str, ...] = ()
    """Devices that make the artifacts in turn."""

    def artifacts(self) -> dict[str, list[Measurement]]:
        """Return the measurements by artifact key, in order."""
        return group_by(self.measurements, lambda measurement: measurement.artifact.key)
