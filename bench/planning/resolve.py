"""Names of a spec, looked up once for the whole run: methods, patterns, quantizers, measures and devices."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from bench.catalog import registry
from bench.catalog.choice import Choice, parse_chain, parse_method, parse_quantizer
from bench.catalog.code import method_digest
from bench.catalog.declarations import CatalogEntry
from bench.formats.checkpoint import content_digest
from bench.planning.artifact import Stage
from bench.planning.spec import Spec
from bench.system import digests
from bench.system.devices import cluster_device, cores, resolve_devices
from methods.errors import UserError
from methods.pattern import Pattern

AUTO = "auto"
Kind = Literal["methods", "quantizers"]


class MethodStages(NamedTuple):
    stages: tuple[Stage, ...]
    """Stages in order. A stage has a pattern if its method alone decides it."""
    pattern: str
    """Pattern of the weights if that is not a pattern of the run: "dense" for a control, "depth 25%" of a smaller one."""

    beside: str = ""
    """Text behind the pattern: " + r16" for a low-rank term, as in `Pattern.parse`. It is the pattern of later stages, too."""

    @property
    def elsewhere(self) -> Stage | None:
        """Stage that takes a model made elsewhere, or None."""
        return next((s for s in self.stages if registry.lookup("methods", s.name).elsewhere), None)


@dataclass(frozen=True)
class PlanRequest:
    """A spec with every name looked up. It does not depend on the model."""

    spec: Spec
    chains: tuple[MethodStages, ...]
    """Stages of each method, the dense model first."""
    transformed: Mapping[str, tuple[MethodStages, ...]]
    """Stages of each method with the transform that a quantizer comes after, by the quantizer's label."""
    patterns: tuple[Pattern, ...]
    quantizers: tuple[Stage | None, ...]
    measures: tuple[str, ...]
    devices: tuple[str, ...]
    """Devices of one type. Each makes one artifact at a time."""
    jobs: int
    """Number of parallel artifacts. It is 1 for "auto" until the plan is known."""
    threads: int
    fetch: bool
    """True to download what is missing, false to plan without it."""

    @property
    def device(self) -> str:
        return self.devices[0]

    @property
    def trains(self) -> bool:
        return any("training" in stage.needs for chain in self.chains for stage in chain.stages)


def resolve_request(spec: Spec, *, fetch: bool = False) -> PlanRequest:
    """Look up every name of a spec. Raise UserError if it is unknown, out of range, or excluded by another setting."""
    measures = tuple(dict.fromkeys((*spec.measures, "pattern")))
    for name in measures:
        entry = registry.lookup("measures", name)
        if check := getattr(registry.load(entry), "check", None):
            with registry.guarded(entry):
                check(spec, fetch=fetch)
    chains = [parse_chain(text) for text in dict.fromkeys(("dense", *spec.methods))]
    _require_distinct(chains)
    quantizers = [parse_quantizer(text) for text in spec.quantizers]
    by_ray = spec.executor == "ray"
    devices = (cluster_device(spec.device),) if by_ray else resolve_devices(spec.device, elsewhere=not fetch)
    patterns = tuple(Pattern.parse(text) for text in spec.patterns)
    for pattern in patterns:
        if pattern.removed:
            raise UserError(
                f"{pattern} is no pattern to prune to: use --methods {pattern.removed.replace(' ', ':drop=')}"
            )
        if pattern.beside:
            raise UserError(f"{pattern} is no pattern to prune to: use --pattern {pattern.base} and --methods lowrank")
    transformed = {
        quantizer.label: [_with_transform(chain, quantizer) for chain in chains]
        for quantizer in quantizers
        if quantizer and registry.lookup("quantizers", quantizer.name).after
    }
    choices = list(itertools.chain(*chains, *itertools.chain(*transformed.values())))
    for choice, pattern in itertools.product(choices, patterns):
        _require_pattern(choice, pattern)
    _require_nodes(spec)
    _require_one_device(spec, devices)
    _require_shareable(spec, choices, "methods")
    _require_shareable(spec, filter(None, quantizers), "quantizers")
    jobs = 1 if spec.jobs == AUTO else len(devices) if spec.jobs is None else int(spec.jobs)
    return PlanRequest(
        spec=spec,
        chains=tuple(map(_stages, chains)),
        transformed={label: tuple(map(_stages, some)) for label, some in transformed.items()},
        patterns=patterns,
        quantizers=tuple(_stage(choice, "quantizers") if choice else None for choice in quantizers),
        measures=measures,
        devices=devices,
        jobs=jobs,
        threads=spec.threads or (1 if spec.executor == "ray" else max(1, cores() // jobs)),
        fetch=fetch,
    )


def _stages(chain: Sequence[Choice]) -> MethodStages:
    """Return the stages of a method, or raise UserError if one of them cannot follow those before it."""
    pattern, stages, dropping, beside, rounded = "dense", [], None, "", ""
    first = turned = ""
    for choice in chain:
        entry, own = registry.lookup("methods", choice.name), ""
        if beside and (entry.adds or entry.drops or not (entry.prior or entry.keeps_pattern)):
            raise UserError(
                f"{choice.name} cannot follow a low-rank term, which would no longer fit: use it before lowrank, "
                f"lowrank:from={choice.name}"
            )
        if rounded:
            raise UserError(
                f"{choice.name} would change the factors that {rounded} has rounded: leave one of the two out"
            )
        if entry.transform and not pattern:
            raise UserError(
                f"{choice.label} must come before pruning, because it would fill the zeros: "
                f"use METHOD:from={choice.label.split(':from=')[0]}"
            )
        if entry.drops:
            if dropping or pattern != "dense":
                raise UserError(
                    f"{choice.label} must come first, because it removes parts of a dense model: "
                    f"use METHOD:from={choice.label.split(':from=')[0]}, without from= in it"
                )
            own, dropping = f"{choice.name} {choice.config.get(entry.drops, entry.amount)}", choice
        elif dropping and entry.same_blocks:
            raise UserError(
                f"{choice.name} needs for each block the dense model's block of the same number and shapes, and "
                f"{dropping.label} changes them: use recon or retrain in place of {choice.name}"
            )
        elif entry.adds:
            amount = choice.config.get(entry.adds, entry.amount)
            beside = f" + {amount}" if isinstance(amount, str) else f" + r{amount}"
            rounded = choice.label if choice.config.get(entry.rounds_term) else ""
            pattern = ""
        elif dropping and pattern and (entry.prior or entry.keeps_pattern):
            own = pattern
        elif not entry.dense:
            pattern = ""
        # width keeps the shape of what a block puts out
        if dropping and dropping.name != "width" and entry.trains and choice.config.get("hidden"):
            what = "blocks" if dropping.name == "depth" else "channels"
            raise UserError(
                f"{choice.label} compares the output of each block with the dense model's, and {dropping.label} removes "
                f"{what}: leave hidden out"
            )
        if dropping and dropping.name == "channels" and entry.same_outputs:
            raise UserError(
                f"{choice.name} compares the output of each block with the dense model's, and {dropping.label} removes "
                f"channels: use retrain in place of {choice.name}"
            )
        # The teacher has the transforms before all other stages only.
        if turned and (entry.same_outputs or entry.same_blocks or (entry.trains and choice.config.get("hidden"))):
            raise UserError(
                f"{choice.name} compares blocks with the dense model's, and {turned} after {first} changes the basis of "
                f"this model alone: put {turned} first, {first}:from={turned}"
            )
        if first and entry.turns and choice.config.get(entry.turns, True):
            turned = choice.name
        if not entry.transform:
            first = first or choice.name
        pattern = own or pattern
        stages.append(_stage(choice, "methods").model_copy(update={"pattern": own or beside}))
    return MethodStages(tuple(stages), pattern, beside)


def _with_transform(chain: list[Choice], quantizer: Choice) -> list[Choice]:
    """Return the stages of a method with the quantizer's transform and group: first, but behind a stage that removes parts.

    Raises:
        UserError: the transform is typed with other settings than the quantizer has, or the model was made elsewhere.
    """
    after = parse_method(registry.lookup("quantizers", quantizer.name).after)
    name, group = after.name, quantizer.config.get("group")
    if typed := next((choice for choice in chain if choice.name == name), None):
        for field, value in {**after.config, "group": group}.items():
            if (own := typed.config.get(field, value)) != value:
                use = f"use {quantizer.name}:group={own}" if field == "group" else f"use a quantizer of {own} {field}"
                raise UserError(
                    f"{typed.label} and {quantizer.label} differ in {field}: {use}, or leave the {field} of {name} out"
                )
        with_group = parse_method(f"{typed.label}:group={group}") if group and "group" not in typed.config else typed
        return [with_group if choice is typed else choice for choice in chain]
    entries = [registry.lookup("methods", choice.name) for choice in chain]
    if entries[0].elsewhere:
        raise UserError(
            f"{quantizer.label} needs {name} before all else, and {chain[0].label} was made elsewhere: "
            "leave one of the two out"
        )
    transform = parse_method(f"{name}:group={group}" if group else name)
    rest = [c for c in chain if c.name != "dense"]
    count = int(bool(entries[0].drops))
    return [*rest[:count], transform, *rest[count:]]


def _stage(choice: Choice, kind: Kind) -> Stage:
    """Return the stage of a choice, without its pattern and without the fields of a recipe."""
    entry = registry.lookup(kind, choice.name)
    config = dict(choice.config)
    if file := config.get(entry.file or entry.settings_file):
        config["sha256"] = _file_digest(choice, entry, file)
    return Stage(
        name=choice.name,
        label=choice.label,
        target=entry.target,
        source=method_digest(entry),
        config=config,
        needs=entry.needs_with(choice.config),
        kind=kind,
    )


def _require_distinct(chains: Iterable[Sequence[Choice]]) -> None:
    """Raise UserError if a method is typed in two ways: they would be one row."""
    known: dict[str, str] = {}
    for chain in chains:
        label = chain[-1].label
        same = known.setdefault(repr([(c.name, sorted(c.config.items())) for c in chain]), label)
        if same != label:
            raise UserError(f"{same} and {label} are the same method: leave one out")


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
        entry = registry.lookup(kind, choice.name)
        if "calibration" in entry.needs_with(choice.config) and not entry.shares_calibration:
            entries = registry.entries("methods") | registry.entries("quantizers")
            able = ", ".join(name for name, entry in entries.items() if entry.shares_calibration)
            raise UserError(
                f"{choice.name} calibrates in one process: leave calibration.processes={processes} out, or use {able}"
            )


def _require_pattern(choice: Choice, pattern: Pattern) -> None:
    """Raise UserError if the method does not support the pattern, or its block is not a whole number of groups."""
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


def _file_digest(choice: Choice, entry: CatalogEntry, name: str) -> str:
    """Return the digest of a file that a method reads, or raise UserError if it cannot be read."""
    if entry.elsewhere:
        return content_digest(Path(name))
    try:
        return digests.of_file(Path(name))
    except OSError as fault:
        raise UserError(f"{choice.label}: file {name!r} cannot be read: {fault.strerror}") from None
