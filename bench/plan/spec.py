"""What to run, as one checked model: the TOML file, the flags and the Python API all end here."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.catalog import registry
from bench.inputs.hub import DATA_ENV, mirror
from bench.inputs.tasks import BUILTIN_TASKS
from bench.results.store import RESULTS
from bench.system.suggest import describe_unknown
from methods.errors import UserError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibration(_Strict):
    """Tokens for methods that need some: `sequences` random crops of `seqlen` tokens from random documents."""

    data: str = "wiki-mini"
    """A corpus by name."""
    sequences: int = Field(default=128, ge=1)
    """Number of crops."""
    seqlen: int | None = Field(default=None, ge=2)
    """None: the model's evaluation length."""


class Training(_Strict):
    """For methods that train; None is what the recipe says, and the recipe goes by the model's size."""

    data: str = "wiki-mini"
    """A corpus by name, or a .txt or .jsonl file, or a folder of them."""
    recipe: str | None = None
    """A recipe by name; None: by the model's size."""
    tokens: int | None = Field(default=None, ge=1)
    """Of the whole training, epochs counted."""
    batch: int | None = Field(default=None, ge=1)
    """Sequences a step."""
    seqlen: int | None = Field(default=None, ge=2)
    """Tokens a sequence."""
    micro: int | None = Field(default=None, ge=1)
    """Sequences a forward pass; gradients of a step add up."""
    processes: int = Field(default=1, ge=1)
    """That share a step, on this machine: a card each, or so many processes on the CPU."""
    checkpoint_s: float = Field(default=300, ge=0, allow_inf_nan=False)
    """Seconds between two checkpoints, from which a run that was stopped resumes. Changes no number."""


class PerplexitySpec(_Strict):
    """Windows without overlap over one corpus. None: the model's own default."""

    data: str | None = None
    """A corpus by name."""
    seqlen: int | None = Field(default=None, ge=2)
    """Tokens a window."""
    windows: int | None = Field(default=None, ge=1)
    """None: all of them."""
    split: Literal["evaluation", "validation"] = "evaluation"
    """Choices are made on the validation split of a corpus that has one (wiki-mini)."""
    batch: int | None = Field(default=None, ge=1)
    """Windows a forward pass."""
    dense_states_gb: float = Field(default=4, ge=0, allow_inf_nan=False)
    """The cache keeps at most so many GB of the dense model's hidden states. Changes no number."""


class ZeroshotSpec(_Strict):
    """How a task of lm-eval is run."""

    tokens: int | None = Field(default=None, ge=1)
    """Per forward, padding included. None: 1024 on a CPU, 8192 on a GPU. Rounding makes it part of what decides a number."""
    batch: int = Field(default=16, ge=1)
    """Requests per forward where lm-eval runs the model itself: for generated answers, for example."""
    limit: int | None = Field(default=None, ge=1)
    """The first so many questions of each task; None: all."""


class Targets(_Strict):
    """Globs over module names."""

    include: tuple[str, ...] = ("*",)
    """Linears to prune."""
    exclude: tuple[str, ...] = ()
    """Of these, those to leave dense."""

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value


class Spec(_Strict):
    """One run: every method on every model, at every pattern, read by every measure."""

    methods: tuple[str, ...] = registry.DEFAULT_METHODS
    """As typed after --methods. The dense model is always included."""
    models: tuple[str, ...] = ("tiny",)
    """An alias, a hub id or a folder."""
    patterns: tuple[str, ...] = ("2:4",)
    """n:m, 50% or dense."""
    quantizers: tuple[str, ...] = ("none", "int8", "int4-gptq")
    """Run last, on every pruned model and on the dense one; "none" leaves it as it is."""
    measures: tuple[str, ...] = ("perplexity", "agreement", "zeroshot", "size")
    """The pattern is always measured too."""
    tasks: tuple[str, ...] = BUILTIN_TASKS
    """For zeroshot: the suite's own, any of lm-eval's, and the sets maskllm7 and wanda7."""
    seeds: tuple[int, ...] = (0,)
    """They draw the calibration text and whatever else a method draws."""
    results: Path = RESULTS
    """Folder of records."""
    data_dir: Path | None = Field(default=None, validate_default=True)
    """A mirror of hub data; None: $BENCH_DATA_DIR, if it is set."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto depends on the device."""
    threads: int | None = Field(default=None, ge=1)
    """On a CPU; None: all cores. It is part of every key."""
    stream: bool = False
    """Bring the model to the device block by block while pruning; on by itself where it would not fit."""
    calibration: Calibration = Calibration()
    training: Training = Training()
    perplexity: PerplexitySpec = PerplexitySpec()
    zeroshot: ZeroshotSpec = ZeroshotSpec()
    targets: Targets = Targets()

    @field_validator("methods", "models", "patterns", "quantizers", "measures", "tasks", "seeds", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        return (parts,) if isinstance(parts, int) else parts

    @field_validator("methods", "models", "patterns", "quantizers", "measures", "tasks", "seeds")
    @classmethod
    def _some(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("needs at least one")
        return tuple(dict.fromkeys(v.strip() if isinstance(v, str) else v for v in value))

    @field_validator("data_dir")
    @classmethod
    def _mirror(cls, value: Path | None) -> Path | None:
        named = mirror(value)
        if named and not named.is_dir():
            raise UserError(
                f"data directory {str(named)!r} is not there: make it, or leave --data-dir and ${DATA_ENV} out"
            )
        return named.resolve() if named else None


KINDS = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
}
"""Of pydantic's messages, those that say how it parses."""


def make_spec(values: dict[str, Any]) -> Spec:
    """A spec from plain values.

    Raises:
        UserError: an unknown key, with the nearest known one, or an invalid value.
    """
    try:
        return Spec(**values)
    except ValidationError as fault:
        raise UserError(_sentence(fault)) from None


def _sentence(fault: ValidationError) -> str:
    first = fault.errors()[0]
    where = ".".join(str(p) for p in first["loc"] if not isinstance(p, int))
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] = Spec
        for part in first["loc"][:-1]:
            model = type(getattr(model(), str(part)))
        return describe_unknown(
            "setting", where, [".".join([*map(str, first["loc"][:-1]), f]) for f in model.model_fields]
        )
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be").replace("'", "")
    allowed = KINDS.get(first["type"], message)
    return f"invalid {where}={first['input']}: {allowed}"


def assign(values: dict[str, Any], assignment: str) -> None:
    """Apply one `--set key.sub=value`; the value is read as TOML where it is TOML, else as a string.

    Raises:
        UserError: no "=".
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(f"--set {assignment!r} has no value: write key=value, for example perplexity.seqlen=512")
    try:
        value: Any = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {assignment!r}: {parent!r} is a value, not a table")
    values[leaf] = value
