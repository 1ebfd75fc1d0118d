"""What to run, as one checked model: the TOML file, the flags and the Python API all end here."""

from __future__ import annotations

import contextlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, ValidationInfo, field_validator

from bench.catalog.entries import DEFAULT_METHODS
from bench.inputs.hub import mirror, require_mirror
from bench.inputs.tasks import BUILTIN_TASKS
from bench.results.store import RESULTS
from bench.system.suggest import describe_unknown, shorten
from bench.system.validation import describe_allowed, split_commas
from methods.errors import UserError

MAX_SEED = 2**32 - 1
"""numpy takes no more."""
MAX_JOBS = 1024
MAX_COUNT, MAX_TOKENS = 10_000_000, 2**24
"""For settings: of sequences, windows and questions, and of tokens in one of them. What a corpus has bounds them further."""


def _read_extent(value: Any) -> Any:
    if value is None or value == "all":
        return value
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", str(value)) or not 1 <= int(value) <= MAX_COUNT:
        raise ValueError(f"must be a whole number from 1 to {MAX_COUNT}, or all")
    return int(value)


Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Extent = Annotated[int | Literal["all"] | None, PlainValidator(_read_extent)]
"""Number of windows or questions, from the first, or "all"."""
Length = Annotated[int, Field(ge=2, le=MAX_TOKENS)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


def _is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8. Bytes on a command line that are not UTF-8 become text that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """What pydantic would take for something else, and text that no path or record can have."""
        takes_bool = cls.model_fields[info.field_name or ""].annotation is bool
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, bool) and not takes_bool:
                raise ValueError("must not be true or false")
            if isinstance(one, str) and (not one or "\0" in one or not _is_unicode(one)):
                raise ValueError("must be valid text" if one else "must not be empty")
        return value


class Calibration(_Strict):
    """Tokens for methods that need some: `sequences` random crops of `seqlen` tokens from random documents."""

    data: str = "wiki-mini"
    """A corpus by name."""
    sequences: Count = 128
    """Number of crops."""
    seqlen: Length | None = None
    """None: the model's evaluation length."""
    all_experts: bool = False
    """In a mixture of experts, every expert sees all tokens, not only those that the router sends it."""
    processes: int = Field(default=1, ge=1, le=1024)
    """That share the sequences and the targets, on this machine: a card each, or so many processes on the CPU."""


class Training(_Strict):
    """For methods that train; None is what the recipe says, and the recipe goes by the model's size."""

    data: str = "wiki-mini"
    """A corpus by name, or a .txt or .jsonl file, or a folder of them."""
    recipe: str | None = None
    """A recipe by name; None: by the model's size."""
    tokens: int | None = Field(default=None, ge=1, le=10**15)
    """Number of training tokens, over all epochs. None: the recipe's, or 307,200 for `tiny` if no recipe is named."""
    batch: Count | None = None
    """Sequences a step."""
    seqlen: Length | None = None
    """Tokens a sequence."""
    micro: Count | None = None
    """Sequences a forward pass; gradients of a step add up."""
    processes: int = Field(default=1, ge=1, le=1024)
    """That share a step: a card each, or so many processes on the CPU."""
    nodes: int = Field(default=1, ge=1, le=1024)
    """Machines that these processes are on, in equal parts; torchrun or srun starts the command on each. Changes no number."""
    checkpoint_s: float = Field(default=300, ge=0, allow_inf_nan=False)
    """Seconds between two checkpoints, from which a run that was stopped resumes. Changes no number."""


class PerplexitySpec(_Strict):
    """Windows without overlap over one corpus. None: the model's own default."""

    data: str | None = None
    """A corpus by name."""
    seqlen: Length | None = None
    """Tokens a window."""
    windows: Extent = None
    """Number of windows, from the first, or "all". None: 32,768 tokens' worth for `tiny`, "all" for other models."""
    split: Literal["evaluation", "validation"] = "evaluation"
    """Choices are made on the validation split of a corpus that has one (wiki-mini)."""
    batch: Count | None = None
    """Windows a forward pass."""
    dense_states_gb: float = Field(default=4, ge=0, le=10**6)
    """The cache keeps at most so many GB of the dense model's hidden states. Changes no number."""


class ZeroshotSpec(_Strict):
    """How a task of lm-eval is run."""

    tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    """Per forward, padding included. None: 1024 on a CPU, 8192 on a GPU. Rounding makes it part of what decides a number."""
    batch: Count = 16
    """Requests per forward where lm-eval runs the model itself: for generated answers, for example."""
    limit: Extent = None
    """Number of questions of each task, from the first, or "all". None: 200 for `tiny`, "all" for other models."""


class SpeedSpec(_Strict):
    workloads: tuple[Literal["decode", "prefill", "linears"], ...] = ("decode", "prefill", "linears")
    """What the measure `speed` times; on a CPU decoding alone."""


def _split_commas(value: Any) -> Any:
    """Text as the names between its commas; anything else as it is."""
    return split_commas(value) if isinstance(value, str) else value


class Targets(_Strict):
    """Globs over module names."""

    include: tuple[str, ...] = ("*",)
    """Linears to prune."""
    exclude: tuple[str, ...] = ()
    """Of these, those to leave dense."""

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _split_commas(value)


class Spec(_Strict):
    """One run: every method on every model, at every pattern, read by every measure."""

    methods: tuple[str, ...] = DEFAULT_METHODS
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
    seeds: tuple[Seed, ...] = (0,)
    """They draw the calibration text and whatever else a method draws."""
    results: Path = RESULTS
    """Folder of records."""
    data_dir: Path | None = Field(default=None, validate_default=True)
    """A mirror of hub data; None: $BENCH_DATA_DIR, if it is set."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; several cards by commas make an artifact each, side by side."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto depends on the device."""
    threads: int | None = Field(default=None, ge=1, le=4096)
    """On a CPU; None: all cores. It is part of every key."""
    jobs: int | Literal["auto"] | None = None
    """Artifacts that are made side by side; "auto": as many as cores and memory allow; None: one, or one for each of several
    cards. They share the cores, unless `threads` says how many each has."""
    executor: Literal["local", "ray"] = "local"
    """What makes artifacts: processes of this machine, or tasks of a Ray cluster. Changes no number."""
    ray_address: str = "auto"
    """Of the cluster's head, HOST:PORT; auto: the one that this machine belongs to; local: a new one on this machine."""
    log_to: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Programs that are told of the run as it goes. Changes no number."""
    shard: str | None = None
    """Only this part of the plan, for example "2/4", or "slurm" in a task of a Slurm array; None: all of it."""
    max_memory: float | None = Field(default=None, gt=0, le=10**6)
    """GB of this machine's memory that each artifact may take, about: a model that does not fit is streamed, and calibration
    activations that do not fit are kept on disk. None: what is free. Changes no number."""
    stream: bool = False
    """Bring the model to the device block by block, a mixture expert by expert; on by itself where it would not fit."""
    calibration: Calibration = Calibration()
    training: Training = Training()
    perplexity: PerplexitySpec = PerplexitySpec()
    zeroshot: ZeroshotSpec = ZeroshotSpec()
    speed: SpeedSpec = SpeedSpec()
    targets: Targets = Targets()

    @field_validator(
        "methods", "models", "patterns", "quantizers", "measures", "tasks", "seeds", "log_to", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else _split_commas(value)

    @field_validator("log_to")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("methods", "models", "patterns", "quantizers", "measures", "tasks", "seeds")
    @classmethod
    def _some(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        parts = tuple(dict.fromkeys(v.strip() if isinstance(v, str) else v for v in value))
        if not parts or "" in parts:
            raise ValueError("needs at least one, and none of them empty")
        return parts

    @field_validator("ray_address")
    @classmethod
    def _require_ray(cls, value: str, info: ValidationInfo) -> str:
        if value != "auto" and info.data.get("executor") == "local":
            raise ValueError("is for a Ray cluster: add --executor ray, or leave it out")
        return value

    @field_validator("jobs", mode="plain")
    @classmethod
    def _count_jobs(cls, value: Any) -> int | str | None:
        if value is None or value == "auto":
            return "auto" if value else None
        if isinstance(value, bool) or not re.fullmatch("[0-9]{1,5}", str(value)) or not 1 <= int(value) <= MAX_JOBS:
            raise ValueError(f"must be a whole number from 1 to {MAX_JOBS}, or auto")
        return int(value)

    @field_validator("data_dir")
    @classmethod
    def _mirror(cls, value: Path | None) -> Path | None:
        named = mirror(value)
        if named:
            require_mirror(named)
        return named.resolve() if named else None


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
        if where == "search":
            return "the table [search] is for bench search FILE: use that, or leave the table out"
        model: type[BaseModel] = Spec
        for part in first["loc"][:-1]:
            model = type(getattr(model(), str(part)))
        return describe_unknown(
            "setting", where, [".".join([*map(str, first["loc"][:-1]), f]) for f in model.model_fields]
        )
    return f"invalid {where}={shorten(first['input'])}: {describe_allowed(first)}"


def assign(values: dict[str, Any], assignment: str) -> None:
    """Apply one `--set key.sub=value`; the value is read as TOML where it is TOML, else as a string.

    Raises:
        UserError: no "=".
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(
            f"--set {shorten(assignment)!r} has no value: write key=value, for example perplexity.seqlen=512"
        )
    value: Any = text
    with contextlib.suppress(ValueError, RecursionError):  # of a number too long, or nested too deeply
        if list(read := tomllib.loads(f"v = {text}")) == ["v"]:
            value = read["v"]
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {shorten(assignment)!r}: {parent!r} is a value, not a table")
    values[leaf] = value
