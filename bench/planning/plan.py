"""Plan of a run: artifacts and measurements, each with the key of its record. Loads no model, and
no torch but to compare a tied head."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.catalog import registry
from bench.catalog.entries import LOCAL
from bench.inputs import download, models
from bench.inputs.model_facts import ModelFacts
from bench.inputs.shapes import fetched_model, is_planned, planned_model
from bench.inputs.task_yaml import read_task
from bench.planning.artifact import Measurement, Plan
from bench.planning.memory import estimate_bytes
from bench.planning.model_inputs import ModelInputs
from bench.planning.resolve import AUTO, resolve_request
from bench.planning.spec import Spec
from bench.system.devices import cores, memory_bytes
from bench.system.source_digest import digest_source
from methods.contract.errors import UserError
from methods.model.targets import require_matches

JOBS_SHARE = 0.8
"""Share of the machine's memory that parallel artifacts may use together."""


def make_plan(
    spec: Spec, *, fetch: bool = False, on_fetch: Callable[[str], None] = lambda name: None
) -> Plan:
    """Plan all measurements of a spec, or of its shard, or raise UserError if the run would fail
    later.

    fetch: download missing models and data first. on_fetch: called with the name of each model
    before it is downloaded.
    """
    # A plug-in or a task may have changed since the last plan of this process.
    digest_source.cache_clear()
    read_task.cache_clear()
    take_shard = None
    if spec.shard is not None:
        take_shard = registry.load(registry.lookup("services", "shard"))(spec.shard)
    request = resolve_request(spec, fetch=fetch)
    measurements: dict[str, Measurement] = {}
    names: dict[tuple[str, ...], str] = {}
    linears: set[str] = set()
    to_pull = []
    pulling = on_fetch if fetch else None
    for name in spec.models:
        facts = _read_facts(name, spec, pulling)
        if facts is None:
            to_pull.append(name)
            facts = planned_model(name) or fetched_model(name, spec.data_dir)
        if facts is None:
            continue
        content = (facts.digest, facts.tokenizer_digest, facts.companions_digest)
        same = names.setdefault(content, name)
        if same != name:
            raise UserError(f"{same} and {name} are the same model: leave one out")
        inputs = ModelInputs(request, facts)
        linears.update(facts.linears)
        for artifact, fields in itertools.product(inputs.artifacts(), inputs.measurements):
            measurement = Measurement(artifact=artifact, **fields)
            known = measurements.setdefault(measurement.key, measurement)
            if known is not measurement and known.identity.key() != measurement.identity.key():
                raise UserError(
                    f"{known.artifact.label} and {artifact.label} are the same model: leave one out"
                )
    if linears:
        require_matches(
            (*spec.targets.include, *spec.targets.exclude), linears, " or ".join(names.values())
        )
    plan = Plan(
        spec,
        tuple(measurements.values()),
        tuple(to_pull),
        request.jobs,
        request.devices[: request.jobs],
    )
    if spec.jobs == AUTO and spec.executor == LOCAL:
        plan = _fit_memory(plan, request.devices)
    return take_shard(plan) if take_shard else plan


def _read_facts(name: str, spec: Spec, on_fetch: Callable[[str], None] | None) -> ModelFacts | None:
    """Read the facts of a model, or return None if it must be downloaded first.

    on_fetch: as in `make_plan`. None: download nothing.
    """
    if on_fetch:
        return download.pull(name, spec.data_dir, on_fetch)
    if is_planned(Path(name)):
        return planned_model(name)
    return models.resolve(name, spec.data_dir)


def _fit_memory(plan: Plan, devices: tuple[str, ...]) -> Plan:
    """Choose as many parallel jobs as memory allows if each artifact is the largest, and share the
    cores among them.

    The number of threads follows from the number of jobs, and is part of every key. So the choice
    depends on shapes and on the size of the memory, and never on records or on the memory that is
    free.
    """
    artifacts = [some[0].artifact for some in plan.artifacts().values()]
    most = len(devices)
    if devices[0] == "cpu":
        most = max(1, cores() // (plan.spec.threads or 1))
    largest = max(map(estimate_bytes, artifacts), default=1.0)
    jobs = max(1, min(most, int(JOBS_SHARE * memory_bytes() / largest)))
    threads = plan.spec.threads or max(1, cores() // jobs)
    measurements = []
    for measurement in plan.measurements:
        artifact = measurement.artifact.model_copy(update={"threads": threads})
        measurements.append(measurement.model_copy(update={"artifact": artifact}))
    return replace(plan, measurements=tuple(measurements), jobs=jobs, devices=devices[:jobs])
