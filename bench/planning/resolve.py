"""Look up the names in a spec once for the whole run: methods, patterns, quantizers, measures and
devices."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.catalog import named_files, registry
from bench.catalog.choice import Choice, parse_chain, parse_quantizer
from bench.catalog.entries import CONTROL, LOCAL
from bench.inputs import corpora
from bench.inputs.mixtures import shares_of
from bench.measures.windowed import WindowSettings
from bench.planning import recipes
from bench.planning.artifact import Stage
from bench.planning.chain import Kind, MethodStages, make_stage, stages_of, with_transform
from bench.planning.spec import Spec
from bench.system.devices import cluster_device, cores, resolve_devices
from methods.contract.errors import UserError
from methods.contract.info import Does
from methods.contract.pattern import Pattern

AUTO = "auto"


@dataclass(frozen=True)
class PlanRequest:
    """A spec with every name looked up. It does not depend on the model."""

    spec: Spec
    chains: tuple[MethodStages, ...]
    """Stages of each method, the dense model first."""
    transformed: Mapping[str, tuple[MethodStages, ...]]
    """Stages of each method and then a quantizer's own transform, by the quantizer's label. Only
    quantizers that need one are here."""
    patterns: tuple[Pattern, ...]
    quantizers: tuple[Stage | None, ...]
    """Stage of each quantizer. None: no quantization."""
    measures: tuple[str, ...]
    devices: tuple[str, ...]
    """Devices of one type. Each builds one artifact at a time."""
    jobs: int
    """Number of artifacts built in parallel. It is 1 for "auto" until the plan is known."""
    threads: int
    fetch: bool
    """True to download missing data, False to plan without it."""

    @property
    def device(self) -> str:
        return self.devices[0]

    @property
    def trains(self) -> bool:
        return any("training" in stage.needs for chain in self.chains for stage in chain.stages)


def resolve_request(spec: Spec, *, fetch: bool = False) -> PlanRequest:
    """Look up every name in a spec. Raise UserError for an unknown name, a value out of range, or
    settings that exclude each other."""
    methods = named_files.with_names("methods", spec.methods)
    named_quantizers = named_files.with_names("quantizers", spec.quantizers)
    named_measures = named_files.with_names("measures", spec.measures)
    measures = tuple(dict.fromkeys((*named_measures, "pattern")))
    for name in measures:
        _check_measure(name, spec, fetch)
    _require_known(spec)
    typed_chains = {text: parse_chain(text) for text in (CONTROL, *methods)}
    chains = list(typed_chains.values())
    typed_quantizers = {text: parse_quantizer(text) for text in named_quantizers}
    quantizers = list(typed_quantizers.values())
    named = [quantizer for quantizer in quantizers if quantizer]
    _require_distinct("methods", typed_chains)
    _require_distinct("quantizers", {text: [one] for text, one in typed_quantizers.items() if one})
    is_local = spec.executor == LOCAL
    if is_local:
        devices = resolve_devices(spec.device, elsewhere=not fetch)
    else:
        devices = (cluster_device(spec.device),)
    patterns = tuple(map(Pattern.parse, spec.patterns))
    for pattern in patterns:
        _require_prunable(pattern)
    every_chain = list(chains)
    transformed: dict[str, tuple[MethodStages, ...]] = {}
    for quantizer in named:
        if registry.lookup("quantizers", quantizer.name).after:
            own = [with_transform(chain, quantizer) for chain in chains]
            every_chain += own
            transformed[quantizer.label] = tuple(map(stages_of, own))
    choices = list(itertools.chain.from_iterable(every_chain))
    for choice, pattern in itertools.product(choices, patterns):
        _require_pattern(choice, pattern)
    _require_nodes(spec)
    _require_one_device(spec, devices)
    _require_shareable(spec, choices, "methods")
    _require_shareable(spec, named, "quantizers")
    jobs = 1
    if spec.jobs != AUTO:
        jobs = len(devices) if spec.jobs is None else int(spec.jobs)
    own_threads = max(1, cores() // jobs) if is_local else 1
    stages = [make_stage(choice, "quantizers") if choice else None for choice in quantizers]
    return PlanRequest(
        spec=spec,
        chains=tuple(map(stages_of, chains)),
        transformed=transformed,
        patterns=patterns,
        quantizers=tuple(stages),
        measures=measures,
        devices=devices,
        jobs=jobs,
        threads=spec.threads or own_threads,
        fetch=fetch,
    )


def _check_measure(name: str, spec: Spec, fetch: bool) -> None:
    """Raise UserError if a measure is unknown, or cannot use the settings of the run."""
    entry = registry.lookup("measures", name)
    kind = registry.load(entry)
    if hasattr(kind, "check"):
        with registry.guarded(entry):
            kind.check(spec, fetch=fetch)


def _require_prunable(pattern: Pattern) -> None:
    """Raise UserError for a pattern that only describes a result, such as fewer blocks or a
    low-rank term. No method prunes to it."""
    if pattern.removed:
        name, share = pattern.removed
        link = registry.lookup("methods", name).link(name, name, {})
        ways = [f"--methods {option}={share}" for option in link.options.values()]
        way = ways[0] if ways else "--pattern 2:4"
        raise UserError(f"{pattern} is no pattern to prune to: use {way}")
    if pattern.beside:
        methods = registry.entries("methods")
        able = ", ".join(name for name, entry in methods.items() if Does.ADDS in entry.does)
        raise UserError(
            f"{pattern} is no pattern to prune to: use --pattern {pattern.base} and --methods "
            f"{able}"
        )


def _require_distinct(kind: Kind, chains: Mapping[str, Sequence[Choice]]) -> None:
    """Raise UserError if two texts name the same method or quantizer. Both would be one row.

    chains: stages by the typed text.
    """
    known: dict[str, str] = {}
    for label, chain in chains.items():
        settings = []
        for choice in chain:
            typed = _other_than_defaults(kind, choice)
            settings.append((choice.name, sorted(typed.items()), sorted(choice.outer.items())))
        same = known.setdefault(repr(settings), label)
        if same != label:
            raise UserError(
                f"{same} and {label} are the same {kind.removesuffix('s')}: leave one out"
            )


def _other_than_defaults(kind: Kind, choice: Choice) -> dict[str, Any]:
    """Return the typed settings that are not defaults. For a method that trains return all: a
    recipe may replace its defaults."""
    entry = registry.lookup(kind, choice.name)
    if not choice.config or entry.trains:
        return choice.config
    built = registry.load(entry)
    return {
        name: value for name, value in choice.config.items() if value != getattr(built, name, None)
    }


def _require_known(spec: Spec) -> None:
    """Raise UserError for an unknown corpus or recipe in a setting, also if the run does not read
    it."""
    windows = spec.settings_of(WindowSettings)
    for name in (*spec.calibration.data, spec.training.data):
        for part in shares_of(name):
            corpora.require(part)
    if windows.data:
        if len(shares_of(windows.data)) > 1:
            raise UserError(
                f"perplexity.data={windows.data} is a mixture, which calibrates and trains: "
                "measure on one corpus"
            )
        corpora.require(windows.data)
    if spec.training.recipe:
        recipes.lookup(spec.training.recipe)


def _require_nodes(spec: Spec) -> None:
    nodes, processes = spec.training.nodes, spec.training.processes
    if nodes == 1:
        return
    if processes % nodes:
        raise UserError(
            f"training.processes={processes} cannot be divided among training.nodes={nodes}: use "
            f"a multiple of {nodes}"
        )
    if spec.executor != LOCAL:
        raise UserError(
            f"training.nodes={nodes} is not for executor {spec.executor}: use --executor local, "
            "or one node"
        )
    if spec.jobs not in (None, 1):
        raise UserError(
            f"training.nodes={nodes} takes one artifact at a time: leave --jobs {spec.jobs} out"
        )


def _require_one_device(spec: Spec, devices: tuple[str, ...]) -> None:
    for name, processes in (
        ("training", spec.training.processes),
        ("calibration", spec.calibration.processes),
    ):
        if len(devices) > 1 and processes > 1:
            raise UserError(
                f"{name}.processes={processes} divides one {name} among GPUs, but device "
                f"{spec.device} makes an artifact on each: use --device cuda, or leave "
                f"{name}.processes out"
            )
        if processes > 1 and ":" in devices[0]:
            raise UserError(
                f"{name}.processes={processes} takes the first {processes} GPUs, not "
                f"{devices[0]}: use --device cuda, with CUDA_VISIBLE_DEVICES for others"
            )


def _require_shareable(spec: Spec, choices: Iterable[Choice], kind: Kind) -> None:
    processes, sequences = spec.calibration.processes, spec.calibration.sequences
    if processes == 1:
        return
    if processes > sequences:
        raise UserError(
            f"calibration.processes={processes} is more than calibration.sequences={sequences}: "
            "use at most one process for each sequence"
        )
    for choice in choices:
        entry = registry.lookup(kind, choice.name)
        file = registry.file_of(kind, choice.name)
        if file and kind == "quantizers":
            raise UserError(
                f"{choice.name} is in the file {file}, and processes that share a calibration "
                f"find no codec there: leave calibration.processes={processes} out, or install "
                "its class as a plug-in"
            )
        if "calibration" in entry.needs_with(choice.config) and not entry.shares_calibration:
            entries = registry.entries("methods") | registry.entries("quantizers")
            able = ", ".join(name for name, entry in entries.items() if entry.shares_calibration)
            raise UserError(
                f"{choice.name} calibrates in one process: leave "
                f"calibration.processes={processes} out, or use {able}"
            )


def _require_pattern(choice: Choice, pattern: Pattern) -> None:
    """Raise UserError if the method cannot prune to the pattern."""
    entry = registry.lookup("methods", choice.name)
    link = entry.link(choice.name, choice.label, choice.config)
    for rule in entry.rules:
        rule.takes(link, pattern)
