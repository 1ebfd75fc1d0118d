"""Names of measurements. They do not depend on the version of the code, so comparisons and gates
join on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from bench.system import digests

DECIDES_NO_NUMBER = True

COLUMNS = (
    "model", "method", "pattern", "quantizer", "seed", "measure", "protocol", "calibration",
    "training", "targets", "dtype", "device",
)  # fmt: skip
"""Parts of an identity as text, in the order of a row."""


TIMED = "speed"
"""Measure whose numbers are times. Its protocol is a step of the model, with a length or a version
like others."""

MAX_WHOLE = 2**63 - 1
"""Largest whole number of a record: frames and Parquet have 64 bits."""
Whole = Annotated[int, Field(strict=True, ge=0, le=MAX_WHOLE)]
"""A whole number, but no text or fraction of one."""
IdentityKey = tuple[tuple[str, Any], ...]
"""Pairs of column and text, without empty columns."""


def chain_label(stages: Sequence[str]) -> str:
    """Return stages as one name: `permute + wanda`. `from` names the stages before, so it is left
    out of all but the first."""
    labels = list(stages[:1])
    for stage in stages[1:]:
        parts = [part for part in stage.split(":") if not part.startswith("from=")]
        labels.append(":".join(parts))
    return " + ".join(labels)


def _with_bos(label: str, bos: str) -> str:
    # Without BOS at the start of each sequence, a text has the name that it has in papers and in
    # older records.
    if bos in ("auto", "always"):
        return f"{label} with BOS"
    return label


class Protocol(BaseModel, frozen=True, extra="forbid"):
    """The text or task of a measurement.

    seqlen: tokens of a window. limit: number of windows or questions, if not all. engine: library
    that ran the model, if the measure compares engines. bos: rule for BOS where it changes the
    tokens. prompt: settings that change the questions of a task. draw: "spread" if the windows are
    evenly spaced in the text, "" if they are the first.
    """

    name: str
    version: str | None = None
    seqlen: Whole | None = None
    limit: Whole | None = None
    engine: str = ""
    bos: str = ""
    prompt: str = ""
    draw: str = ""

    @property
    def label(self) -> str:
        label = self.name
        if self.version is not None:
            label += f"@{self.version}"
        elif self.seqlen is not None:
            label += f"@{self.seqlen}"
        if self.limit:
            label += f"x{self.limit}"
        if self.draw:
            label += f" {self.draw}"
        if self.prompt:
            label += f" ({self.prompt})"
        label = _with_bos(label, self.bos)
        if self.engine:
            label += f" in {self.engine}"
        return label


class CalibrationText(BaseModel, frozen=True, extra="forbid"):
    """The calibration tokens: `sequences` sequences of `seqlen` tokens. None if the record does not
    say."""

    data: str
    sequences: Whole | None = None
    seqlen: Whole | None = None
    all_experts: Annotated[bool, Field(strict=True)] = False
    """True if every expert of a mixture saw all tokens."""
    bos: str = ""
    packing: str = ""
    """How sequences were cut from documents, if not as random crops."""

    @property
    def label(self) -> str:
        label = self.data
        if self.seqlen is not None:
            label += f"@{self.seqlen}x{self.sequences}"
        if self.packing:
            label += f" {self.packing}"
        label = _with_bos(label, self.bos)
        if self.all_experts:
            label += ", all experts"
        return label


class TrainingText(BaseModel, frozen=True, extra="forbid"):
    """The training tokens, in steps of `batch` sequences of `seqlen` tokens. None if the record
    does not say."""

    data: str
    seqlen: Whole | None = None
    batch: Whole | None = None
    tokens: Whole | None = None
    bos: str = ""
    recipe: str = ""
    """Name of the recipe, if it is not the one for the model's size."""

    @property
    def label(self) -> str:
        label = self.data
        if self.seqlen is not None:
            label += f"@{self.seqlen}x{self.batch}"
        label = _with_bos(label, self.bos)
        if self.tokens is not None:
            label += f", {self.tokens:,} tokens"
        if self.recipe:
            label += f", recipe {self.recipe}"
        return label


class Identity(BaseModel, frozen=True, extra="forbid"):
    """The name of a measurement. stages: methods as typed, in order."""

    model: str
    stages: tuple[str, ...]
    pattern: str
    quantizer: str = "none"
    seed: Whole | None = None
    measure: str = ""
    protocol: Protocol = Protocol(name="")
    calibration: CalibrationText | None = None
    training: TrainingText | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    dtype: str = ""
    """Number format of the weights on disk."""
    arithmetic: str = ""
    """Number format of the arithmetic. "": `dtype`."""
    device: str = ""

    def __hash__(self) -> int:
        # Reports hash identities 100,000 times. These parts tell most apart.
        parts = (self.model, self.stages, self.pattern, self.quantizer, self.seed, self.measure)
        return hash((*parts, self.protocol.name, self.protocol.version))

    @property
    def method(self) -> str:
        """All stages but the quantizer, in order. See `chain_label`."""
        return chain_label(self.stages)

    @property
    def targets(self) -> str:
        included = ",".join(self.include)
        if not self.exclude:
            return included
        return f"{included} without {','.join(self.exclude)}"

    @property
    def subject(self) -> Literal["timing", "text", "task", "weights"]:
        """Kind of what was measured on, as the protocol says it: windows of a text have a length, a
        task has a version.

        It needs no class of the measure, which may come from a plug-in that is not installed.
        """
        if self.measure == TIMED:
            return "timing"
        if self.protocol.seqlen is not None:
            return "text"
        if self.protocol.version is None:
            return "weights"
        return "task"

    @property
    def computed_in(self) -> str:
        """Number format of the arithmetic."""
        return self.arithmetic or self.dtype

    @property
    def number_format(self) -> str:
        """Number format of the weights, and that of the arithmetic if it is another."""
        if self.arithmetic:
            return f"{self.dtype}, computed in {self.arithmetic}"
        return self.dtype

    def labels(self) -> dict[str, str | int | None]:
        """Return COLUMNS as text. The seed is a number."""
        return dict(_labels(self))

    def key(self, *without: str) -> IdentityKey:
        """Return the parts that two compared numbers share. without: columns in which they may
        differ."""
        return _key(self, without)


@lru_cache(maxsize=2**16)
def _labels(identity: Identity) -> IdentityKey:
    """Return pairs of column and text. A report asks for those of a row thousands of times."""
    calibration, training = identity.calibration, identity.training
    return (
        ("model", identity.model),
        ("method", identity.method),
        ("pattern", identity.pattern),
        ("quantizer", identity.quantizer),
        ("seed", identity.seed),
        ("measure", identity.measure),
        ("protocol", identity.protocol.label),
        ("calibration", calibration and calibration.label),
        ("training", training and training.label),
        ("targets", identity.targets),
        ("dtype", identity.number_format),
        ("device", identity.device),
    )


@lru_cache(maxsize=2**16)
def _key(identity: Identity, without: tuple[str, ...]) -> IdentityKey:
    return tuple((k, v) for k, v in _labels(identity) if v is not None and k not in without)


PROMPT = ("num_fewshot", "apply_chat_template", "system_instruction", "gen_kwargs")
"""Settings that change the questions of a task, or its answers."""


def describe_prompt(
    shots: int | None, chat: bool | None, system: str | None, arguments: str | None
) -> str:
    """Return the settings of PROMPT in words, "" if none is set."""
    parts = []
    if shots is not None:
        parts.append(f"{shots}-shot")
    if chat:
        parts.append("chat template")
    if system:
        parts.append(f"system {digests.of(system)[:6]}")
    if arguments:
        parts.append(arguments)
    return ", ".join(parts)
