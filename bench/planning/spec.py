"""Settings of a run as one checked object. The TOML file, the flags and the Python API all produce
it."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, create_model, field_validator

from bench.catalog import named_files
from bench.catalog.entries import DEFAULT_METHODS, LOCAL, MEASURES
from bench.catalog.registry import entries, load, names
from bench.inputs.bos import BosRule
from bench.inputs.hub import mirror, require_mirror
from bench.inputs.tasks import BUILTIN_TASKS
from bench.inputs.windows import Packing
from bench.measures.contract import MeasureSettings
from bench.results.store import RESULTS
from bench.system.suggest import describe_unknown, shorten
from bench.system.validation import MAX_COUNT, Count, Length, Strict, count_or
from bench.system.values import describe_allowed, split_commas
from methods.contract.errors import UserError

MAX_SEED = 2**32 - 1
"""Largest seed that numpy takes."""

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
S = TypeVar("S", bound=MeasureSettings)


class Calibration(Strict):
    """Calibration text: sequences cut from random documents."""

    data: Annotated[tuple[str, ...], Field(min_length=1)] = ("wiki-mini",)
    """Name of a corpus, a .txt, .jsonl or .parquet file (FILE:FIELD names a field), a folder of
    such files, or a mixture of them, such as wiki:0.5,code:0.5. A list of several: every calibrated
    row is made with each."""
    sequences: Count = 128
    """Number of sequences."""
    seqlen: Length | None = None
    """Tokens in a sequence. Default: the model's evaluation length."""
    packing: Packing = "crops"
    """How sequences are cut from documents. crops: each is a random crop of one document, which
    must be longer. starts: each begins with a document, and others follow until it is full.
    stream: documents in random order are one text that is cut."""
    all_experts: bool = False
    """Send all tokens to every expert of a mixture, not only those that the router selects."""
    processes: int = Field(default=1, ge=1, le=1024)
    """Number of processes on this machine that share the calibration. Each uses its own GPU, or a
    part of the CPU."""

    @field_validator("data", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        # A mixture has commas.
        return (value,) if isinstance(value, str) else value

    @field_validator("data")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))


class Training(Strict):
    """Training of the methods that need it. The recipe for the model's size gives what is not
    set."""

    data: str = "wiki-mini"
    """Name of a corpus, a .txt, .jsonl or .parquet file (FILE:FIELD names a field), a folder of
    such files, or a mixture of them, such as wiki:0.5,code:0.5."""
    recipe: str | None = None
    """Name of a recipe. Default: the recipe for the model's size."""
    tokens: int | None = Field(default=None, ge=1, le=10**15)
    """Number of training tokens, over all epochs. Default: as in the recipe, or 307,200 for `tiny`
    without a named recipe."""
    batch: Count | None = None
    """Sequences in a step."""
    seqlen: Length | None = None
    """Tokens in a sequence."""
    micro: Count | None = None
    """Sequences in a forward pass. A step accumulates the gradients of several."""
    processes: int = Field(default=1, ge=1, le=1024)
    """Number of processes that share a step. Each uses its own GPU, or a part of the CPU."""
    nodes: int = Field(default=1, ge=1, le=1024)
    """Number of machines that share these processes equally. Start the command on each with
    torchrun or srun. Changes no number."""
    checkpoint_s: float = Field(default=300, ge=0, allow_inf_nan=False)
    """Least seconds between two checkpoints, which take at most 5% of the time. A run that was
    stopped resumes from the last. Changes no number."""


class Targets(Strict):
    """Selection of the linear layers by patterns of module names, such as `*.mlp.*`."""

    include: tuple[str, ...] = ("*",)
    """Layers to prune."""
    exclude: tuple[str, ...] = ()
    """Layers to leave dense, although `include` matches them."""

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_commas(value) if isinstance(value, str) else value


if TYPE_CHECKING:
    _MeasureTables = Strict
else:
    _tables = {}
    for _entry in MEASURES.values():
        _kind = getattr(load(_entry), "settings", None)
        if _kind:
            _tables[_kind.table] = (_kind, _kind())
    _MeasureTables = create_model("_MeasureTables", __base__=Strict, **_tables)

MEASURE_TABLES = frozenset(_MeasureTables.model_fields)
"""Tables of settings that only measures read."""


class Spec(_MeasureTables, extra="allow"):
    """One run: every method on every model at every pattern, read by every measure.

    A measure can add a table of settings, such as `perplexity`. The table of a plug-in's measure is
    an extra field.

    Raises:
        UserError: a setting is unknown, or a value is invalid. Names of methods and models are
            checked by `bench.plan`.
    """

    def __init__(self, /, **settings: Any) -> None:
        others = [name for name in settings if name not in Spec.model_fields]
        kinds = _plugin_tables(settings.get("measures", ())) if others else {}
        for name in others:
            if name not in kinds:
                raise UserError(_describe_unknown(name, [*Spec.model_fields, *kinds]))
            with _as_user_error(kinds[name], name):
                settings[name] = kinds[name].model_validate(settings[name])
        with _as_user_error(Spec):
            super().__init__(**settings)

    methods: tuple[str, ...] = DEFAULT_METHODS
    """Methods as after --methods, or classes in a file. The dense model is always included."""
    models: tuple[str, ...] = ("tiny",)
    """Models: aliases, hub ids or folders."""
    patterns: tuple[str, ...] = ("2:4",)
    """Sparsity patterns: n:m, pairs:4:8, a share such as 50%, or dense."""
    quantizers: tuple[str, ...] = ("none", "int8", "int4-gptq")
    """Quantizers, applied last to every pruned model and to the dense one. "none" does not
    quantize."""
    measures: tuple[str, ...] = ("perplexity", "agreement", "zeroshot", "answers", "size")
    """Measures. `pattern` is always included."""
    tasks: tuple[str, ...] = BUILTIN_TASKS
    """Tasks for zeroshot: built-in tasks, tasks of lm-eval, and the sets maskllm7 and wanda7. Tasks
    for answers: tracks, and single tasks of them, such as mathematics/gsm8k."""
    bos: BosRule = "auto"
    """BOS, the beginning-of-text token, at the start of every evaluation window, calibration
    sequence and training sequence.
    auto: if the tokenizer itself begins a text with it. never: a text is encoded whole and then
    cut, as in the code of SparseGPT and Wanda, so that only the first window has what the tokenizer
    adds."""
    seeds: tuple[Seed, ...] = (0,)
    """Random seeds, for calibration text and for methods."""
    results: Path = RESULTS
    """Folder of the records."""
    data_dir: Path | None = Field(default=None, validate_default=True)
    """Folder with a mirror of hub data. Default: $BENCH_DATA_DIR, if it is set."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N. With several GPUs, separated by commas, each makes its own
    artifact."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights on disk, after each stage. auto: the format that the model is
    stored in, but bfloat16 if a method trains a float16 model on a GPU."""
    arithmetic: Literal["auto", "dtype", "float32"] = "auto"
    """Number format of the loaded weights and of the arithmetic: that of dtype, or float32. auto:
    float32 if dtype is auto, the device is a CPU and the CPU has no instructions for the stored
    format, else that of dtype."""
    threads: int | None = Field(default=None, ge=1, le=4096)
    """Number of CPU threads, a part of every key. Default: all cores."""
    jobs: Annotated[int | Literal["auto"] | None, count_or("auto", MAX_COUNT)] = None
    """Number of artifacts that are made in parallel. auto: as many as cores and memory allow.
    Default: 1, or the number of GPUs if `device` names several. Parallel artifacts share the cores
    unless `threads` is set."""
    executor: str = LOCAL
    """Where artifacts are made: local, by processes of this machine, ray, by tasks of a Ray
    cluster, or the executor of a plug-in. Changes no number."""
    ray_address: str = "auto"
    """Address HOST:PORT of the Ray cluster's head. auto: the cluster of this machine. local: a new
    cluster on this machine."""
    log_to: tuple[str, ...] = ()
    """Experiment trackers that follow the run. Changes no number."""
    shard: str | None = None
    """Part of the plan to run, for example "2/4". Default: all of it."""
    stall_timeout: float = Field(default=21_600, gt=0, allow_inf_nan=False)
    """Seconds without progress after which a worker is killed and its artifact fails. Changes no
    number."""
    max_memory: float | None = Field(default=None, gt=0, le=10**6)
    """Approximate limit in GB of main memory for each artifact. A larger model is streamed, and
    calibration activations that do not fit are kept on disk. Default: the free memory. Changes no
    number."""
    memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of this machine's memory that all workers may take together. Above it, the largest is
    killed and its artifact fails. Changes no number."""
    stream: bool = False
    """Load the model onto the device block by block, and a mixture expert by expert. This is
    automatic if it does not fit."""
    calibration: Calibration = Calibration()
    training: Training = Training()
    targets: Targets = Targets()

    def settings_of(self, kind: type[S]) -> S:
        """Return the settings of a measure."""
        settings: S | None = getattr(self, kind.table, None)
        return kind() if settings is None else settings  # a plug-in's table may have defaults

    @field_validator("methods", "quantizers", "measures", mode="before")
    @classmethod
    def _name_classes(cls, value: Any, info: ValidationInfo) -> Any:
        return _texts(str(info.field_name), value)

    @field_validator(
        "methods",
        "models",
        "patterns",
        "quantizers",
        "measures",
        "tasks",
        "seeds",
        "log_to",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, int):
            return (value,)
        return split_commas(value) if isinstance(value, str) else value

    @field_validator("methods", "models", "patterns", "quantizers", "measures", "tasks", "seeds")
    @classmethod
    def _require_some(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        parts = [part.strip() if isinstance(part, str) else part for part in value]
        if not parts or "" in parts:
            raise ValueError("needs at least one value, and no empty one")
        return tuple(dict.fromkeys(parts))

    @field_validator("log_to")
    @classmethod
    def _require_trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            _require_name("tracker", name)
        return tuple(dict.fromkeys(value))

    @field_validator("executor")
    @classmethod
    def _require_executor(cls, value: str) -> str:
        _require_name("executor", value)
        return value

    @field_validator("ray_address")
    @classmethod
    def _require_ray(cls, value: str, info: ValidationInfo) -> str:
        if value != "auto" and info.data.get("executor") == LOCAL:
            raise ValueError("is for a Ray cluster: add --executor ray, or leave it out")
        return value

    @field_validator("data_dir")
    @classmethod
    def _find_mirror(cls, value: Path | None) -> Path | None:
        folder = mirror(value)
        if folder:
            require_mirror(folder)
        return folder.resolve() if folder else None


def _require_name(noun: str, name: str) -> None:
    """Raise ValueError for a name that is not in the catalog. noun: of its section."""
    known = names(f"{noun}s")
    if name not in known:
        raise ValueError(describe_unknown(noun, name, known))


def _texts(kind: str, value: Any) -> Any:
    """Return what a user types for methods, quantizers or measures. value: text, a class or an
    instance, or some of them."""
    if isinstance(value, str):
        return split_commas(value)
    if not isinstance(value, list | tuple):
        value = (value,)
    return tuple(named_files.text_of(kind, each) for each in value)


def _plugin_tables(measures: Any) -> dict[str, type[MeasureSettings]]:
    """Return the tables of settings of plug-ins' measures by name, and of those in files. This
    imports them.

    measures: as the user gave them.
    """
    named_files.with_names("measures", filter(named_files.is_file, _texts("measures", measures)))
    kinds: dict[str, type[MeasureSettings]] = {}
    for entry in entries("measures").values():
        if not entry.is_plugin or entry.broken:
            continue
        settings = getattr(load(entry), "settings", None)
        if isinstance(settings, type) and issubclass(settings, MeasureSettings):
            kinds.setdefault(settings.table, settings)
    return kinds


@contextlib.contextmanager
def _as_user_error(model: Any, *tables: str) -> Iterator[None]:
    """Raise UserError in place of a ValidationError. tables: names of the tables that the model is
    in."""
    try:
        yield
    except ValidationError as fault:
        raise UserError(_describe(fault, model, tables)) from None


def _describe(fault: ValidationError, model: Any, tables: tuple[str, ...]) -> str:
    first = fault.errors()[0]
    names_only = [str(part) for part in first["loc"] if not isinstance(part, int)]
    where = ".".join((*tables, *names_only))
    if first["type"] == "extra_forbidden":
        *inner, _ = map(str, first["loc"])
        for table in inner:
            model = model.model_fields[table].annotation
        known = [".".join((*tables, *inner, name)) for name in model.model_fields]
        return _describe_unknown(where, known)
    return f"invalid {where}={shorten(first['input'])}: {describe_allowed(first)}"


def _describe_unknown(name: str, known: list[str]) -> str:
    if name == "search":
        return "the table [search] is for bench search FILE: use that, or leave the table out"
    return describe_unknown("setting", name, known)


def assign(values: dict[str, Any], assignment: str) -> None:
    """Apply one `--set key.sub=value`. A value that is not valid TOML, or a date or time, is taken
    as text.

    Raises:
        UserError: there is no "=", or a part of the key is a value.
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(
            f"--set {shorten(assignment)!r} has no value: write key=value, for example "
            "perplexity.seqlen=512"
        )
    value: Any = text
    # RecursionError: the value is nested too deeply.
    with contextlib.suppress(ValueError, RecursionError):
        read = tomllib.loads(f"v = {text}")
        # No setting is a date or a time, but the name of a folder may look like one.
        if list(read) == ["v"] and not isinstance(read["v"], date | time):
            value = read["v"]
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {shorten(assignment)!r}: {parent!r} is a value, not a table")
    values[leaf] = value
