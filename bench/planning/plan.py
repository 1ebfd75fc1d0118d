"""Plan of a run: artifacts and measurements, each with the key of its record. Loads no model, and no torch but to compare a tied head."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.inputs import download, models
from bench.inputs.shapes import is_planned, planned_model
from bench.inputs.task_yaml import read_task
from bench.planning.artifact import Artifact, Measurement, Plan
from bench.planning.memory import estimate_bytes
from bench.planning.model_inputs import ModelInputs
from bench.planning.resolve import AUTO, PlanRequest, resolve_request
from bench.planning.shards import divide, parse_shard
from bench.planning.spec import Spec
from bench.system.devices import cores, memory_bytes
from bench.system.source_digest import digest_source
from methods.errors import UserError
from methods.targets import require_matches

JOBS_SHARE = 0.8
"""Share of the machine's memory that parallel artifacts may use together."""


def make_plan(spec: Spec, *, fetch: bool = False, on_fetch: Callable[[str], None] = lambda name: None) -> Plan:
    """Plan all measurements of a spec, or of its shard, or raise UserError if the run would fail later.

    fetch: download missing models and data first. on_fetch: called with the name of each model before it is downloaded.
    """
    for read in (digest_source, read_task):  # a plug-in or a task may have changed since the last plan of this process
        read.cache_clear()
    index, count = parse_shard(spec.shard)
    request = resolve_request(spec, fetch=fetch)
    measurements: dict[str, Measurement] = {}
    names: dict[tuple[str, ...], str] = {}
    linears: set[str] = set()
    to_pull = []
    for name in spec.models:
        if not fetch and is_planned(Path(name)):
            model = planned_model(name)
        else:
            model = download.pull(name, spec.data_dir, on_fetch) if fetch else models.resolve(name, spec.data_dir)
        if model is None:
            to_pull.append(name)
            model = planned_model(name)
        if model is None:
            continue
        content = (model.digest, model.tokenizer, model.companions)
        if (same := names.setdefault(content, model.name)) != model.name:
            raise UserError(f"{same} and {model.name} are the same model: leave one out")
        inputs = ModelInputs(request, model)
        linears.update(inputs.linears)
        for artifact, fields in itertools.product(_artifacts(request, inputs), inputs.measurements):
            measurement = Measurement(artifact=artifact, **fields)
            known = measurements.setdefault(measurement.key, measurement)
            if known is not measurement and known.identity.key() != measurement.identity.key():
                raise UserError(f"{known.artifact.label} and {artifact.label} are the same model: leave one out")
    if linears:
        require_matches((*spec.targets.include, *spec.targets.exclude), linears, " or ".join(names.values()))
    plan = Plan(spec, tuple(measurements.values()), tuple(to_pull), request.jobs, request.devices[: request.jobs])
    if spec.jobs == AUTO and spec.executor == "local":
        plan = _fit_memory(plan, request.devices)
    return divide(plan, count)[index - 1] if count > 1 else plan


def _fit_memory(plan: Plan, devices: tuple[str, ...]) -> Plan:
    """Choose as many parallel jobs as memory allows if each artifact is the largest, and share the cores among them.

    The number of threads follows from the number of jobs, and is part of every key. So the choice depends on shapes and on
    the size of the memory, and never on records or on the memory that is free.
    """
    artifacts = [some[0].artifact for some in plan.artifacts().values()]
    most = len(devices) if devices[0] != "cpu" else max(1, cores() // (plan.spec.threads or 1))
    largest = max(map(estimate_bytes, artifacts), default=1.0)
    jobs = max(1, min(most, int(JOBS_SHARE * memory_bytes() / largest)))
    threads = {"threads": plan.spec.threads or max(1, cores() // jobs)}
    measurements = (m.model_copy(update={"artifact": m.artifact.model_copy(update=threads)}) for m in plan.measurements)
    return replace(plan, measurements=tuple(measurements), jobs=jobs, devices=devices[:jobs])


def _artifacts(request: PlanRequest, inputs: ModelInputs) -> Iterator[Artifact]:
    """Yield an artifact of one model for every method, quantizer, pattern and seed. Some methods have one pattern only."""
    spec, model = request.spec, inputs.model
    for index, method in enumerate(request.chains):
        for quantizer, pattern in inputs.variants(method):
            chain = (
                request.transformed[quantizer.label][index]
                if quantizer and quantizer.label in request.transformed
                else method
            )
            last = [quantizer.model_copy(update={"pattern": chain.beside})] if quantizer else []
            stages = tuple(inputs.complete(s, pattern) for s in (*chain.stages, *last))
            inputs.require_settings_file(stages[-1])
            calibrates, trains = (any(need in s.needs for s in stages) for need in ("calibration", "training"))
            for seed in spec.seeds if any(s.random for s in stages) else (None,):
                yield Artifact(
                    model=model.name,
                    family=inputs.config["model_type"],
                    sizes=inputs.sizes,
                    folder=model.folder,
                    data_dir=spec.data_dir,
                    digest=model.digest,
                    tokenizer=model.tokenizer,
                    companions=model.companions,
                    revision=model.revision,
                    terms=model.terms,
                    loader=inputs.loader,
                    stages=stages,
                    calibration=inputs.calibration if calibrates else None,
                    training=inputs.training if trains else None,
                    processes=spec.training.processes if trains else 1,
                    nodes=spec.training.nodes if trains else 1,
                    include=spec.targets.include,
                    exclude=spec.targets.exclude,
                    seed=seed,
                    dtype=inputs.dtype,
                    arithmetic=inputs.arithmetic,
                    device=request.device,
                    threads=request.threads,
                    stream=spec.stream,
                    max_memory=spec.max_memory,
                    checkpoint_s=spec.training.checkpoint_s,
                )
