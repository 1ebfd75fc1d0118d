"""From a spec to artifacts and cells, each with the key its record will have. Nothing is loaded, and no torch."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

from bench.catalog import registry
from bench.catalog.choice import Choice, parse_chain, parse_quantizer
from bench.inputs import download, models
from bench.plan import recipes
from bench.plan.artifact import Artifact, Measurement, Stage
from bench.plan.resolve import (
    count_parameters,
    input_digest,
    method_digest,
    needs_training,
    require_groups,
    resolve_calibration,
    resolve_measures,
    resolve_training,
)
from bench.plan.spec import Spec
from bench.system.devices import cores, resolve_device
from bench.system.source_digest import digest_source
from methods.pattern import Pattern
from methods.targets import find_targets, require_fit

LOADER = "bench.inputs.loading"
"""Reads every model; named, since importing it imports torch."""


@dataclasses.dataclass(frozen=True)
class Plan:
    spec: Spec
    cells: tuple[Measurement, ...]
    to_pull: tuple[str, ...]
    """Models that are known but not here, so that nothing is planned for them yet."""

    def artifacts(self) -> dict[str, list[Measurement]]:
        """Cells by artifact key, in order."""
        grouped: dict[str, list[Measurement]] = {}
        for cell in self.cells:
            grouped.setdefault(cell.artifact.key, []).append(cell)
        return grouped


def make_plan(spec: Spec, *, fetch: bool = False) -> Plan:
    """All cells of a spec. With `fetch`, what is missing is pulled first.

    Raises:
        UserError: anything that could be known now and would fail later.
    """
    device = resolve_device(spec.device)
    dtype = spec.dtype if spec.dtype != "auto" else ("float32" if device == "cpu" else "bfloat16")
    cells: list[Measurement] = []
    to_pull = []
    for name in spec.models:
        model = download.pull(name, spec.data_dir) if fetch else models.resolve(name, spec.data_dir)
        if model is None:
            to_pull.append(name)
            continue
        cells += _cells_of(spec, model, device, dtype, fetch)
    return Plan(spec, tuple({c.key: c for c in cells}.values()), tuple(to_pull))


def _cells_of(spec: Spec, model: models.Model, device: str, dtype: str, fetch: bool) -> list[Measurement]:
    opened = model.open()
    shapes = opened.shapes()
    targets = find_targets(opened.config, shapes, spec.targets.include, spec.targets.exclude)
    asked = dict.fromkeys((*spec.measures, "pattern"))
    measures = [m for name in asked for m in resolve_measures(name, spec, model, device, fetch)]
    recipe = recipes.choose(count_parameters(shapes), device, spec.training.recipe) if needs_training(spec) else None
    course = resolve_training(spec, model, recipe) if recipe else None
    cells = []
    quantizers = [parse_quantizer(text) for text in spec.quantizers]
    for chosen in quantizers:
        require_groups(chosen, opened.config, shapes, targets)
    for text, quantizer in itertools.product(dict.fromkeys(("dense", *spec.methods)), quantizers):
        chain = parse_chain(text)
        control = all(registry.lookup("methods", c.name).dense for c in chain)
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
                    loader=digest_source(LOADER),
                    stages=stages,
                    calibration=resolve_calibration(spec, model, fetch)
                    if any("calibration" in s.needs for s in stages)
                    else None,
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
                cells += [Measurement(artifact=artifact, **m) for m in measures]
    return cells


def _stage(
    choice: Choice,
    pattern: str,
    recipe: recipes.Recipe | None,
    kind: Literal["methods", "quantizers"] = "methods",
) -> Stage:
    entry = registry.lookup(kind, choice.name)
    needs = entry.needs_with(choice.config)
    below = recipe.methods.get(choice.name, {}) if recipe and "training" in needs else {}
    read = {"sha256": input_digest(choice, choice.config[entry.file])} if choice.config.get(entry.file) else {}
    return Stage(
        name=choice.name,
        label=choice.label,
        target=entry.target,
        source=method_digest(entry),
        config=below | read | choice.config,
        pattern=str(Pattern.parse(pattern)),
        random=bool({"calibration", "training"} & set(needs)),
        needs=needs,
        kind=kind,
    )
