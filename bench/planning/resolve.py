"""A spec's names, resolved once for the whole run: methods, patterns, quantizers and devices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.catalog import registry
from bench.catalog.choice import Choice, parse_chain, parse_quantizer
from bench.catalog.declarations import CatalogEntry
from bench.inputs import tasks
from bench.planning import side_by_side
from bench.planning.spec import Spec
from bench.system import digests, environments
from bench.system.devices import cores, resolve_device, resolve_devices
from bench.system.source_digest import digest_source
from bench.system.suggest import shorten
from methods.errors import UserError
from methods.pattern import Pattern


@dataclass(frozen=True)
class PlanRequest:
    """What a spec asks for whatever the model, every name looked up. chains: the stages of each method, dense first."""

    spec: Spec
    chains: tuple[tuple[Choice, ...], ...]
    patterns: tuple[Pattern, ...]
    quantizers: tuple[Choice | None, ...]
    measures: tuple[str, ...]
    devices: tuple[str, ...]
    """One, or cards that each make an artifact at a time."""
    dtype: str
    threads: int
    fetch: bool
    """Pull what is missing, rather than plan without it."""

    @property
    def device(self) -> str:
        """The first of its devices; all are of one type."""
        return self.devices[0]

    @property
    def trains(self) -> bool:
        return any("training" in needs_of(choice) for chain in self.chains for choice in chain)


def needs_of(choice: Choice) -> tuple[str, ...]:
    """What a method needs, as typed."""
    return registry.lookup("methods", choice.name).needs_with(choice.config)


def is_control(chain: tuple[Choice, ...]) -> bool:
    """Does it stay dense whatever the pattern?"""
    return all(registry.lookup("methods", choice.name).dense for choice in chain)


def _require_nodes(spec: Spec) -> None:
    """
    Raises:
        UserError: a training cannot be divided among its nodes, or not by this executor.
    """
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


def resolve_request(spec: Spec, *, fetch: bool = False) -> PlanRequest:
    """
    Raises:
        UserError: a name, field, value, pattern or device that there is not.
    """
    measures = tuple(dict.fromkeys((*spec.measures, "pattern")))
    for name in measures:
        registry.lookup("measures", name)
    if "zeroshot" in measures:
        tasks.expand(spec.tasks)
    devices = _ray_devices(spec) if spec.executor == "ray" else resolve_devices(spec.device, elsewhere=not fetch)
    if "speed" in measures and not fetch:
        resolve_devices(spec.device)  # a time is of the machine that takes it, and so is its plan
    _require_nodes(spec)
    chains = tuple(tuple(parse_chain(text)) for text in dict.fromkeys(("dense", *spec.methods)))
    patterns = tuple(Pattern.parse(text) for text in spec.patterns)
    for chain, pattern in itertools.product(chains, patterns):
        for choice in chain:
            _require_pattern(choice, pattern)
    quantizers = tuple(parse_quantizer(text) for text in spec.quantizers)
    _require_processes(spec, devices, list(itertools.chain(*chains)), list(filter(None, quantizers)))
    return PlanRequest(
        spec=spec,
        chains=chains,
        patterns=patterns,
        quantizers=quantizers,
        measures=measures,
        devices=devices,
        dtype=spec.dtype if spec.dtype != "auto" else ("float32" if devices[0] == "cpu" else "bfloat16"),
        threads=spec.threads or (1 if spec.executor == "ray" else max(1, cores() // side_by_side.count(spec, devices))),
        fetch=fetch,
    )


def _ray_devices(spec: Spec) -> tuple[str, ...]:
    """This machine may have no card where the nodes have some.

    Raises:
        UserError: a card by its number, which Ray gives out; or a time, which is of the machine that takes it.
    """
    if spec.device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"device {shorten(spec.device)!r} names cards, and Ray gives them out: use --device cuda or cpu"
        )
    if "speed" in spec.measures:
        raise UserError("speed is a time of one machine: measure it with --executor local")
    return (spec.device if spec.device != "auto" else resolve_device("auto"),)


def _require_processes(
    spec: Spec, devices: tuple[str, ...], methods: Sequence[Choice], quantizers: Sequence[Choice]
) -> None:
    """
    Raises:
        UserError: a stage cannot be shared by as many processes as are asked for.
    """
    calibration = spec.calibration
    for name, processes in (("training", spec.training.processes), ("calibration", calibration.processes)):
        if len(devices) > 1 and processes > 1:
            raise UserError(
                f"{name}.processes={processes} divides one {name} among cards, and device {spec.device} gives "
                f"each card an artifact: use --device cuda, or leave {name}.processes out"
            )
    if calibration.processes > calibration.sequences:
        raise UserError(
            f"calibration.processes={calibration.processes} cannot share calibration.sequences={calibration.sequences}: "
            "use at most a process for each sequence"
        )
    for kind, choices in (("methods", methods), ("quantizers", quantizers)):
        for choice in choices if calibration.processes > 1 else ():
            entry = registry.lookup(kind, choice.name)
            if "calibration" in entry.needs_with(choice.config) and not entry.shares_calibration:
                able = [
                    n for s in ("methods", "quantizers") for n, e in registry.entries(s).items() if e.shares_calibration
                ]
                raise UserError(
                    f"{choice.name} calibrates in one process: leave calibration.processes={calibration.processes} out, "
                    f"or use {', '.join(able)}"
                )


def _require_pattern(choice: Choice, pattern: Pattern) -> None:
    """
    Raises:
        UserError: the method does not take the pattern, or its block is not a whole number of groups.
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
    """Digest of a method's code, and of the pins of the environment it runs in."""
    code = digest_source(entry.module)
    return digests.of([code, environments.pins(entry.environment)]) if entry.environment else code


def input_digest(choice: Choice, name: str) -> str:
    """Digest of a file that a method reads.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return digests.of_file(Path(name))
    except OSError as fault:
        raise UserError(f"{choice.label}: file {name!r} cannot be read: {fault.strerror}") from None
