"""From names in a spec to methods, measures, data and models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.catalog.choice import Choice, parse_chain
from bench.inputs import corpora, models, tasks, training_text, windows
from bench.inputs.task_yaml import describe, harness
from bench.measures.speed.measure import measure_configs
from bench.plan import recipes
from bench.plan.artifact import CalibrationSet, TrainingRun
from bench.plan.spec import Spec
from bench.results.identity import Protocol
from bench.system import digests, environments
from bench.system.devices import fingerprint
from bench.system.source_digest import digest_source
from methods.errors import UserError
from methods.targets import family_of


def needs_training(spec: Spec) -> bool:
    chosen = [choice for text in spec.methods for choice in parse_chain(text)]
    return any("training" in registry.lookup("methods", c.name).needs_with(c.config) for c in chosen)


def count_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def resolve_training(spec: Spec, model: models.Model, recipe: recipes.Recipe) -> TrainingRun:
    """
    Raises:
        UserError: no such text, or a budget below one step.
    """
    wanted = spec.training
    training_text.check(wanted.data)
    course = TrainingRun(
        data=wanted.data,
        content=training_text.content(wanted.data, spec.data_dir),
        source=digest_source(training_text.__name__),
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
    chosen: Choice | None,
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


def method_digest(entry: registry.Entry) -> str:
    """Digest of a method's code, and of the pins of what it runs in."""
    code = digest_source(entry.module)
    return digests.of([code, environments.pins(entry.environment)]) if entry.environment else code


def input_digest(choice: Choice, name: str) -> str:
    try:
        return digests.of_file(Path(name))
    except OSError as fault:
        raise UserError(f"{choice.label}: file {name!r} cannot be read: {fault.strerror}") from None


def resolve_calibration(spec: Spec, model: models.Model, fetch: bool) -> CalibrationSet:
    wanted = spec.calibration
    seqlen = wanted.seqlen or model.seqlen
    tokenizer = model.folder / "tokenizer.json"
    if tokenizer.exists() and (fetch or not corpora.lookup(wanted.data).hub):
        corpora.ensure(wanted.data, "calibration", spec.data_dir)
        windows.check_calibration(wanted.data, seqlen, tokenizer, spec.data_dir)
    content = _content(wanted.data, "calibration", spec, fetch)
    return CalibrationSet(
        data=wanted.data,
        content=content,
        source=digest_source(windows.__name__),
        sequences=wanted.sequences,
        seqlen=seqlen,
    )


def resolve_measures(name: str, spec: Spec, model: models.Model, device: str, fetch: bool) -> list[dict[str, Any]]:
    """What the cells of a measure say of it: one cell, of zeroshot one a task, of speed one a workload."""
    if name == "speed":
        return [_cell_of(name, config, "") for config in measure_configs(device, fingerprint(device))]
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
        corpora.require(config["corpus"], wanted.split)
        content = _content(config["corpus"], wanted.split, spec, fetch)
        if content:  # else the corpus is not here yet
            asked = (config["corpus"], config["seqlen"], config["windows"])
            windows.check_windows(*asked, model.folder / "tokenizer.json", spec.data_dir, wanted.split)
    return [_cell_of(name, config, content)]


def _task(name: str, file: str, spec: Spec, fetch: bool) -> dict[str, Any]:
    task = describe(name, file)
    config: dict[str, Any] = {"task": name, "file": file, "version": task.version, "harness": harness()}
    config |= {"batch": spec.zeroshot.batch, "limit": spec.zeroshot.limit}
    content = tasks.ensure(task, spec.data_dir) if fetch else tasks.content(task, spec.data_dir)
    return _cell_of("zeroshot", config, content)


def _cell_of(measure: str, config: dict[str, Any], content: str) -> dict[str, Any]:
    entry = registry.lookup("measures", measure)
    protocol = registry.load(entry)(**config).protocol
    if isinstance(protocol, str):
        protocol = Protocol(name=protocol)
    return {
        "measure": measure,
        "target": entry.target,
        "source": digest_source(entry.module),
        "config": config,
        "protocol": protocol,
        "content": content,
    }


def _content(corpus: str, use: str, spec: Spec, fetch: bool) -> str:
    if fetch or corpora.files(corpus, use, spec.data_dir) or not corpora.lookup(corpus).hub:
        return corpora.ensure(corpus, use, spec.data_dir)
    return ""
