"""From a spec to artifacts and cells, each with the key its record will have. Nothing is loaded, and no torch."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from bench import __version__, blocks, catalog, data, digests, fetching, models, packing, recipes
from bench.spec import Spec
from methods.errors import UserError
from methods.pattern import Pattern
from methods.targets import find_targets, require_fit


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
    version: str = __version__


class Draw(_Frozen):
    """Which calibration tokens."""

    data: str
    content: str
    """Digest of the text."""
    sequences: int
    seqlen: int


class Course(_Frozen):
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
    calibration: Draw | None
    training: Course | None = None
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
            "stages": [s.model_dump(exclude={"label", "target", "random", "needs"}) for s in self.stages],
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
        return " + ".join(s.label for s in self.stages)

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


class Cell(_Frozen):
    """One measure of one artifact: one record."""

    artifact: Artifact
    measure: str
    target: str
    source: str
    config: dict[str, Any]
    protocol: str
    content: str
    """Digest of the data measured on."""
    quantizer: str = "none"

    def determinants(self) -> dict[str, Any]:
        config = {k: v for k, v in self.config.items() if v is not None}
        measure = {"name": self.measure, "source": self.source, "config": config, "content": self.content}
        return self.artifact.determinants() | {"tokenizer": self.artifact.tokenizer, "measure": measure}

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
            "quantizer": self.quantizer,
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


@dataclasses.dataclass(frozen=True)
class Plan:
    spec: Spec
    cells: tuple[Cell, ...]
    to_pull: tuple[str, ...]
    """Models that are known but not here, so that nothing is planned for them yet."""

    def artifacts(self) -> dict[str, list[Cell]]:
        """Cells by artifact key, in order."""
        grouped: dict[str, list[Cell]] = {}
        for cell in self.cells:
            grouped.setdefault(cell.artifact.key, []).append(cell)
        return grouped


def make(spec: Spec, *, fetch: bool = False) -> Plan:
    """All cells of a spec. With `fetch`, what is missing is pulled first.

    Raises:
        UserError: anything that could be known now and would fail later.
    """
    device = resolve_device(spec.device)
    dtype = spec.dtype if spec.dtype != "auto" else ("float32" if device == "cpu" else "bfloat16")
    cells: list[Cell] = []
    to_pull = []
    for name in spec.models:
        model = fetching.pull(name, spec.data_dir) if fetch else models.resolve(name, spec.data_dir)
        if model is None:
            to_pull.append(name)
            continue
        cells += _cells_of(spec, model, device, dtype, fetch)
    return Plan(spec, tuple({c.key: c for c in cells}.values()), tuple(to_pull))


def _cells_of(spec: Spec, model: models.Model, device: str, dtype: str, fetch: bool) -> list[Cell]:
    opened = model.open()
    shapes = opened.shapes()
    targets = find_targets(opened.config, shapes, spec.targets.include, spec.targets.exclude)
    measures = [_measure(name, spec, model, fetch) for name in dict.fromkeys((*spec.measures, "pattern"))]
    recipe = recipes.choose(_parameters(shapes), device, spec.training.recipe) if _trains(spec) else None
    course = _course(spec, model, recipe) if recipe else None
    cells = []
    for text in dict.fromkeys(("dense", *spec.methods)):
        chain = _chain(text)
        control = all(catalog.lookup("methods", c.name).dense for c in chain)
        for pattern in ("dense",) if control else spec.patterns:
            require_fit(Pattern.parse(pattern), opened.config, shapes, targets)
            stages = tuple(_stage(choice, pattern, recipe) for choice in chain)
            for seed in spec.seeds if any(s.random for s in stages) else (None,):
                artifact = Artifact(
                    model=model.name,
                    folder=model.folder,
                    data_dir=spec.data_dir,
                    digest=model.digest,
                    tokenizer=model.tokenizer,
                    revision=model.revision,
                    stages=stages,
                    calibration=_draw(spec, model, fetch) if any("calibration" in s.needs for s in stages) else None,
                    training=course if any("training" in s.needs for s in stages) else None,
                    processes=spec.training.processes if any("training" in s.needs for s in stages) else 1,
                    include=spec.targets.include,
                    exclude=spec.targets.exclude,
                    seed=seed,
                    dtype=dtype,
                    device=device,
                    threads=spec.threads or cores(),
                    stream=spec.stream,
                )
                cells += [Cell(artifact=artifact, **m) for m in measures]
    return cells


def _chain(text: str) -> list[catalog.Choice]:
    """The stages of a method as typed, the one it refines first."""
    choice = catalog.parse(text)
    return [*_chain(choice.prior), choice] if choice.prior else [choice]


def _trains(spec: Spec) -> bool:
    return any("training" in catalog.lookup("methods", c.name).needs for text in spec.methods for c in _chain(text))


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _course(spec: Spec, model: models.Model, recipe: recipes.Recipe) -> Course:
    """
    Raises:
        UserError: no such text, or a budget below one step.
    """
    wanted = spec.training
    packing.check(wanted.data)
    course = Course(
        data=wanted.data,
        content=packing.content(wanted.data, spec.data_dir),
        recipe=recipe.name,
        tokens=wanted.tokens or recipe.tokens,
        batch=wanted.batch or recipe.batch,
        seqlen=wanted.seqlen or recipe.seqlen,
        micro=wanted.micro or recipe.micro,
    )
    if course.batch % wanted.processes:
        raise UserError(
            f"a step of training.batch={course.batch} sequences cannot be shared by training.processes="
            f"{wanted.processes}: take a batch that it divides"
        )
    if course.tokens < course.batch * course.seqlen:
        raise UserError(
            f"training.tokens={course.tokens} is not one step of {course.batch} x {course.seqlen} tokens: "
            "raise it, or lower training.batch"
        )
    return course


def _stage(choice: catalog.Choice, pattern: str, recipe: recipes.Recipe | None) -> Stage:
    entry = catalog.lookup("methods", choice.name)
    below = recipe.methods.get(choice.name, {}) if recipe else {}
    return Stage(
        name=choice.name,
        label=choice.label,
        target=entry.target,
        source=digests.of_source(entry.module),
        config=below | choice.config,
        pattern=str(Pattern.parse(pattern)),
        random=entry.random,
        needs=entry.needs,
    )


def _draw(spec: Spec, model: models.Model, fetch: bool) -> Draw:
    wanted = spec.calibration
    seqlen = wanted.seqlen or model.seqlen
    tokenizer = model.folder / "tokenizer.json"
    if tokenizer.exists() and (fetch or not data.lookup(wanted.data).hub):
        data.ensure(wanted.data, "calibration", spec.data_dir)
        blocks.check_calibration(wanted.data, seqlen, tokenizer, spec.data_dir)
    content = _content(wanted.data, "calibration", spec, fetch)
    return Draw(data=wanted.data, content=content, sequences=wanted.sequences, seqlen=seqlen)


def _measure(name: str, spec: Spec, model: models.Model, fetch: bool) -> dict[str, Any]:
    entry = catalog.lookup("measures", name)
    config: dict[str, Any] = {}
    content = ""
    if name == "perplexity":
        wanted = spec.perplexity
        config = {
            "corpus": wanted.data or model.data,
            "seqlen": wanted.seqlen or model.seqlen,
            "windows": wanted.windows,
            "batch": wanted.batch,
        }
        if wanted.split != "evaluation":
            config["split"] = wanted.split
        content = _content(config["corpus"], "evaluation", spec, fetch)
        if content:  # else the corpus is not here yet
            asked = (config["corpus"], config["seqlen"], config["windows"])
            blocks.check_windows(*asked, model.folder / "tokenizer.json", spec.data_dir, wanted.split)
    protocol = catalog.load(entry)(**config).protocol
    return {
        "measure": name,
        "target": entry.target,
        "source": digests.of_source(entry.module),
        "config": config,
        "protocol": protocol,
        "content": content,
    }


def _content(corpus: str, use: str, spec: Spec, fetch: bool) -> str:
    if fetch or data.files(corpus, use, spec.data_dir) or not data.lookup(corpus).hub:
        return data.ensure(corpus, use, spec.data_dir)
    return ""


def cores() -> int:
    """Physical cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def resolve_device(name: str) -> str:
    """ "auto" is the first CUDA device where there is one. torch is imported only where a driver hints at one.

    Raises:
        UserError: a device that is not there.
    """
    hinted = any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))
    if name == "cpu" or (name == "auto" and not hinted):
        return "cpu"
    if name != "auto" and name.split(":")[0] != "cuda":
        raise UserError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N")
    count = 0
    if hinted:
        import torch

        count = torch.cuda.device_count()
    index = int(name[5:]) if name[5:].isdigit() else 0
    if index < count:
        return name if name != "auto" else "cuda"
    if name == "auto":
        return "cpu"
    raise UserError(
        f"device {name!r} is not there ({count} CUDA devices found): take --device cpu, or see what bench doctor says"
    )
