"""From a spec to artifacts and cells, each with the key its record will have. Nothing is loaded, and no torch."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from bench import blocks, catalog, data, digests, environments, fetching, models, packing, recipes, tasks
from bench.cells import Artifact, Cell, Course, Draw, Stage
from bench.devices import cores, fingerprint, resolve_device
from bench.measures import speed
from bench.spec import Spec
from methods.errors import UserError
from methods.pattern import Pattern
from methods.targets import family_of, find_targets, require_fit


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
    asked = dict.fromkeys((*spec.measures, "pattern"))
    measures = [m for name in asked for m in _measures(name, spec, model, device, fetch)]
    recipe = recipes.choose(_parameters(shapes), device, spec.training.recipe) if _trains(spec) else None
    course = _course(spec, model, recipe) if recipe else None
    cells = []
    quantizers = [catalog.quantizer(text) for text in spec.quantizers]
    for chosen in quantizers:
        require_groups(chosen, opened.config, shapes, targets)
    for text, quantizer in itertools.product(dict.fromkeys(("dense", *spec.methods)), quantizers):
        chain = _chain(text)
        control = all(catalog.lookup("methods", c.name).dense for c in chain)
        for pattern in ("dense",) if control else spec.patterns:
            require_fit(Pattern.parse(pattern), opened.config, shapes, targets)
            stages = tuple(_stage(choice, pattern, recipe) for choice in chain)
            stages += (_stage(quantizer, pattern, None, "quantizers"),) if quantizer else ()
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
    chosen = [choice for text in spec.methods for choice in _chain(text)]
    return any("training" in catalog.lookup("methods", c.name).needs_with(c.config) for c in chosen)


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


def require_groups(
    chosen: catalog.Choice | None,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    targets: Iterable[str],
) -> None:
    """A group size that was typed must divide every target's input width.

    Raises:
        UserError: naming the first target whose width it does not.
    """
    group = chosen.config.get("group") if chosen else None
    if not chosen or not isinstance(group, int):
        return
    for name in targets:
        width = shapes[name + ".weight"][0 if family_of(config).transposed else 1]
        if group < 1 or width % group:
            raise UserError(
                f"{chosen.label}: groups of {group} do not divide the {width} inputs of {name}: "
                "take a size that does, or leave group= out"
            )


def _stage(
    choice: catalog.Choice,
    pattern: str,
    recipe: recipes.Recipe | None,
    kind: Literal["methods", "quantizers"] = "methods",
) -> Stage:
    entry = catalog.lookup(kind, choice.name)
    needs = entry.needs_with(choice.config)
    below = recipe.methods.get(choice.name, {}) if recipe and "training" in needs else {}
    read = {"sha256": _digest(choice, choice.config[entry.file])} if choice.config.get(entry.file) else {}
    return Stage(
        name=choice.name,
        label=choice.label,
        target=entry.target,
        source=_source(entry),
        config=below | read | choice.config,
        pattern=str(Pattern.parse(pattern)),
        random=bool({"calibration", "training"} & set(needs)),
        needs=needs,
        kind=kind,
    )


def _source(entry: catalog.Entry) -> str:
    """Digest of a method's code, and of the pins of what it runs in."""
    code = digests.of_source(entry.module)
    return digests.of([code, environments.pins(entry.environment)]) if entry.environment else code


def _digest(choice: catalog.Choice, name: str) -> str:
    try:
        return digests.of_file(Path(name))
    except OSError as fault:
        raise UserError(f"{choice.label}: file {name!r} cannot be read: {fault.strerror}") from None


def _draw(spec: Spec, model: models.Model, fetch: bool) -> Draw:
    wanted = spec.calibration
    seqlen = wanted.seqlen or model.seqlen
    tokenizer = model.folder / "tokenizer.json"
    if tokenizer.exists() and (fetch or not data.lookup(wanted.data).hub):
        data.ensure(wanted.data, "calibration", spec.data_dir)
        blocks.check_calibration(wanted.data, seqlen, tokenizer, spec.data_dir)
    content = _content(wanted.data, "calibration", spec, fetch)
    return Draw(data=wanted.data, content=content, sequences=wanted.sequences, seqlen=seqlen)


def _measures(name: str, spec: Spec, model: models.Model, device: str, fetch: bool) -> list[dict[str, Any]]:
    """What the cells of a measure say of it: one cell, of zeroshot one a task, of speed one a workload."""
    if name == "speed":
        return [_cell_of(name, config, "") for config in speed.cells(device, fingerprint(device))]
    if name == "zeroshot":
        return [_task(task, file, spec, fetch) for task, file in tasks.expand(spec.tasks).items()]
    config: dict[str, Any] = {}
    content = ""
    if name in ("perplexity", "agreement"):
        wanted = spec.perplexity
        config = {
            "corpus": wanted.data or model.data,
            "seqlen": wanted.seqlen or model.seqlen,
            "windows": wanted.windows,
            "batch": wanted.batch,
        }
        if wanted.split != "evaluation":
            config["split"] = wanted.split
        data.require(config["corpus"], wanted.split)
        content = _content(config["corpus"], wanted.split, spec, fetch)
        if content:  # else the corpus is not here yet
            asked = (config["corpus"], config["seqlen"], config["windows"])
            blocks.check_windows(*asked, model.folder / "tokenizer.json", spec.data_dir, wanted.split)
    return [_cell_of(name, config, content)]


def _task(name: str, file: str, spec: Spec, fetch: bool) -> dict[str, Any]:
    task = tasks.describe(name, file)
    config: dict[str, Any] = {"task": name, "file": file, "version": task.version, "harness": tasks.harness()}
    config |= {"batch": spec.zeroshot.batch, "limit": spec.zeroshot.limit}
    content = tasks.ensure(task, spec.data_dir) if fetch else tasks.content(task, spec.data_dir)
    return _cell_of("zeroshot", config, content)


def _cell_of(measure: str, config: dict[str, Any], content: str) -> dict[str, Any]:
    entry = catalog.lookup("measures", measure)
    protocol = catalog.load(entry)(**config).protocol
    return {
        "measure": measure,
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
