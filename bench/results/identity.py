"""What a measurement is called, whatever version of the code made it: comparisons and gates join on it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

COLUMNS = (
    "model", "method", "pattern", "quantizer", "seed", "measure", "protocol", "calibration", "training", "targets",
    "dtype", "device",
)  # fmt: skip
"""The parts of an identity as text, in the order of a row."""


IdentityKey = tuple[tuple[str, Any], ...]
"""Column and text, for what is not empty."""


class _IdentityPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Protocol(_IdentityPart):
    """What was measured on: a text in windows of `seqlen` tokens, a task of a version, or just a name.

    limit: windows or questions, where not all. engine: what ran the model, where the measure compares engines.
    """

    name: str
    version: str | None = None
    seqlen: int | None = None
    limit: int | None = None
    engine: str = ""

    @property
    def label(self) -> str:
        detail = self.version if self.version is not None else self.seqlen
        label = self.name + (f"@{detail}" if detail is not None else "") + (f"x{self.limit}" if self.limit else "")
        return label + (f" in {self.engine}" if self.engine else "")

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `engine` where there is none: other records stay as they were."""
        return _without_default(dump(self), "engine")


def _without_default(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields, without one that is empty or false."""
    return {k: v for k, v in fields.items() if k != name or v}


class CalibrationText(_IdentityPart):
    """Calibration tokens: so many sequences of so many tokens of a text; None where an old record does not say."""

    data: str
    sequences: int | None = None
    seqlen: int | None = None
    all_experts: bool = False
    """In a mixture, every expert saw all of them."""

    @property
    def label(self) -> str:
        tokens = self.data if self.seqlen is None else f"{self.data}@{self.seqlen}x{self.sequences}"
        return f"{tokens}, all experts" if self.all_experts else tokens

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `all_experts` where it is false: records of other models stay as they were."""
        return _without_default(dump(self), "all_experts")


class TrainingText(_IdentityPart):
    """Training tokens: of a text, in steps of `batch` sequences of `seqlen`; None where an old record does not say."""

    data: str
    seqlen: int | None = None
    batch: int | None = None
    tokens: int | None = None

    @property
    def label(self) -> str:
        steps = "" if self.seqlen is None else f"@{self.seqlen}x{self.batch}"
        return self.data + steps + ("" if self.tokens is None else f", {self.tokens:,} tokens")


class Identity(_IdentityPart):
    """Model, stages, what they used, and what was measured. stages: methods as typed, in order."""

    model: str
    stages: tuple[str, ...]
    pattern: str
    quantizer: str = "none"
    seed: int | None = None
    measure: str = ""
    protocol: Protocol = Protocol(name="")
    calibration: CalibrationText | None = None
    training: TrainingText | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    dtype: str = ""
    device: str = ""

    @property
    def method(self) -> str:
        """Every stage but the quantizer, as typed."""
        return " + ".join(self.stages)

    @property
    def targets(self) -> str:
        return ",".join(self.include) + (f" without {','.join(self.exclude)}" if self.exclude else "")

    def labels(self) -> dict[str, str | int | None]:
        """COLUMNS as text; the seed is a number."""
        return {
            "model": self.model,
            "method": self.method,
            "pattern": self.pattern,
            "quantizer": self.quantizer,
            "seed": self.seed,
            "measure": self.measure,
            "protocol": self.protocol.label,
            "calibration": self.calibration.label if self.calibration else None,
            "training": self.training.label if self.training else None,
            "targets": self.targets,
            "dtype": self.dtype,
            "device": self.device,
        }

    def key(self, *without: str) -> IdentityKey:
        """What two numbers share that are compared. without: columns in which they may differ."""
        return tuple((k, v) for k, v in self.labels().items() if v is not None and k not in without)
