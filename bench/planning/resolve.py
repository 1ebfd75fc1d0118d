"""Names of a spec, looked up once for the whole run: methods, patterns, quantizers, measures and devices."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.catalog import registry
from bench.catalog.choice import Choice, parse_chain, parse_quantizer
from bench.catalog.declarations import CatalogEntry
from bench.planning.spec import Spec
from bench.system import digests, environments
from bench.system.devices import cores, resolve_device, resolve_devices
from bench.system.source_digest import digest_source
from bench.system.suggest import shorten
from methods.errors import UserError
from methods.pattern import Pattern

AUTO = "auto"
Kind = Literal["methods", "quantizers"]


@dataclass(frozen=True)
class PlanRequest:
    """A spec with every name looked up. It does not depend on the model."""

    spec: Spec
    chains: tuple[tuple[Choice, ...], ...]
    """Stages of each method, the dense model first."""
    patterns: tuple[Pattern, ...]
    quantizers: tuple[Choice | None, ...]
    measures: tuple[str, ...]
    devices: tuple[str, ...]
    """Devices of one type. Each makes one artifact at a time."""
    dtype: str
    threads: int
    fetch: bool
    """True to download what is missing, false to plan without it."""

    @property
    def device(self) -> str:
        return self.devices[0]

    @property
    def trains(self) -> bool:
        return any("training" in needs_of(choice) for chain in self.chains for choice in chain)


def needs_of(choice: Choice, kind: Kind = "methods") -> tuple[str, ...]:
    """Return what a method needs with the settings of this choice."""
    return registry.lookup(kind, choice.name).needs_with(choice.config)


def is_control(chain: tuple[Choice, ...]) -> bool:
    """Return whether the model stays dense for every pattern."""
    return all(registry.lookup("methods", choice.name).dense for choice in chain)


def resolve_request(spec: Spec, *, fetch: bool = False) -> PlanRequest:
    """Look up every name of a spec.

    Raises:
        UserError: a name is unknown, a value is out of range, or two settings exclude each other.
    """
    measures = tuple(dict.fromkeys((*spec.measures, "pattern")))
    for name in measures:
        entry = registry.lookup("measures", name)
        if check := getattr(registry.load(entry), "check", None):
            with registry.guarded(entry):
                check(spec, fetch=fetch)
    devices = _ray_devices(spec) if spec.executor == "ray" else resolve_devices(spec.device, elsewhere=not fetch)
    chains = tuple(tuple(parse_chain(text)) for text in dict.fromkeys(("dense", *spec.methods)))
    patterns = tuple(Pattern.parse(text) for text in spec.patterns)
    quantizers = tuple(parse_quantizer(text) for text in spec.quantizers)
    choices = list(itertools.chain(*chains))
    for choice, pattern in itertools.product(choices, patterns):
        _require_pattern(choice, pattern)
    _require_nodes(spec)
    _require_one_device(spec, devices)
    _require_shareable(spec, choices, "methods")
    _require_shareable(spec, filter(None, quantizers), "quantizers")
    return PlanRequest(
        spec=spec,
        chains=chains,
        patterns=patterns,
        quantizers=quantizers,
        measures=measures,
        devices=devices,
        dtype=spec.dtype if spec.dtype != "auto" else ("float32" if devices[0] == "cpu" else "bfloat16"),
        threads=spec.threads or (1 if spec.executor == "ray" else max(1, cores() // count_jobs(spec, devices))),
        fetch=fetch,
    )


def count_jobs(spec: Spec, devices: tuple[str, ...]) -> int:
    """Return the number of parallel artifacts before the plan is known. It is 1 for "auto"."""
    if spec.jobs == AUTO:
        return 1
    return len(devices) if spec.jobs is None else int(spec.jobs)


def _ray_devices(spec: Spec) -> tuple[str, ...]:
    """Return the type of device. The nodes may have GPUs that this machine lacks.

    Raises:
        UserError: the spec names a GPU by number, but Ray assigns GPUs.
    """
    if spec.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {shorten(spec.device)!r} names GPUs, but Ray assigns them: use --device cuda or cpu")
    return (spec.device if spec.device != "auto" else resolve_device("auto"),)


def _require_nodes(spec: Spec) -> None:
    nodes, processes = spec.training.nodes, spec.training.processes
    if nodes == 1:
        return
    if processes % nodes:
        raise UserError(
            f"training.processes={processes} cannot be divided among training.nodes={nodes}: use a multiple of {nodes}"
        )
    if spec.executor != "local":
        raise UserError(
            f"training.nodes={nodes} is not for executor {spec.executor}: use --executor local, or one node"
        )
    if spec.jobs not in (None, 1):
        raise UserError(f"training.nodes={nodes} takes one artifact at a time: leave --jobs {spec.jobs} out")


def _require_one_device(spec: Spec, devices: tuple[str, ...]) -> None:
    for name, processes in (("training", spec.training.processes), ("calibration", spec.calibration.processes)):
        if len(devices) > 1 and processes > 1:
            raise UserError(
                f"{name}.processes={processes} divides one {name} among GPUs, but device {spec.device} makes "
                f"an artifact on each: use --device cuda, or leave {name}.processes out"
            )


def _require_shareable(spec: Spec, choices: Iterable[Choice], kind: Kind) -> None:
    processes, sequences = spec.calibration.processes, spec.calibration.sequences
    if processes > sequences:
        raise UserError(
            f"calibration.processes={processes} is more than calibration.sequences={sequences}: "
            "use at most one process for each sequence"
        )
    for choice in choices if processes > 1 else ():
        if "calibration" in needs_of(choice, kind) and not registry.lookup(kind, choice.name).shares_calibration:
            entries = registry.entries("methods") | registry.entries("quantizers")
            able = ", ".join(name for name, entry in entries.items() if entry.shares_calibration)
            raise UserError(
                f"{choice.name} calibrates in one process: leave calibration.processes={processes} out, or use {able}"
            )


def _require_pattern(choice: Choice, pattern: Pattern) -> None:
    """
    Raises:
        UserError: the method does not support the pattern, or its block is not a whole number of groups.
    """
    entry = registry.lookup("methods", choice.name)
    reads_masks = entry.file and choice.config.get(entry.file)
    if entry.groups_only and not reads_masks:
        pattern.require_groups(choice.label)
    if not entry.block:
        return
    if "block" in choice.config:
        pattern.require_whole_groups(choice.config["block"], f"{choice.name}:block")
    elif not pattern.fits(entry.block):
        raise UserError(
            f"{choice.label} works on blocks of {entry.block} columns, which pattern {pattern} does not divide: "
            f"use another pattern, or {choice.name}:block=N with a multiple of {pattern.m}"
        )


def method_digest(entry: CatalogEntry) -> str:
    """Return the digest of a method's code, and of the pinned versions of its environment."""
    code = digest_source(entry.module)
    return digests.of([code, environments.pins(entry.environment)]) if entry.environment else code


def input_digest(choice: Choice, name: str) -> str:
    """Return the digest of a file that a method reads.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return digests.of_file(Path(name))
    except OSError as fault:
        raise UserError(f"{choice.label}: file {name!r} cannot be read: {fault.strerror}") from None
