"""The stages of a method in order, and which stage cannot follow which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bench.catalog import registry
from bench.catalog.choice import Choice, parse_method
from bench.catalog.code import method_digest
from bench.catalog.declarations import CatalogEntry
from bench.formats.checkpoint import content_digest
from bench.planning.artifact import Stage
from bench.system import digests
from methods.errors import UserError

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


def stages_of(choices: Sequence[Choice]) -> MethodStages:
    """Return the stages of a method, or raise UserError if one of them cannot follow those before it."""
    chain = _Chain()
    for choice in choices:
        chain.add(choice)
    return MethodStages(tuple(chain.stages), chain.pattern, chain.beside)


class _Chain:
    """The stages so far, and what limits the next one."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.pattern = "dense"
        """Pattern as in MethodStages. "": one of the run."""
        self.beside = ""
        self.rounded = ""
        """Stage that rounded the factors of a low-rank term, by its label."""
        self.dropping: Choice | None = None
        """Stage that removed parts of the model."""
        self.first = ""
        """First stage that is no transform."""
        self.turned = ""
        """Transform after `first` that changed the basis of the model."""

    def add(self, choice: Choice) -> None:
        entry, own = registry.lookup("methods", choice.name), ""
        if refusal := next(self._refusals(choice, entry), ""):
            raise UserError(refusal)
        if entry.drops:
            own, self.dropping = f"{choice.name} {choice.config.get(entry.drops, entry.amount)}", choice
        elif entry.adds:
            amount = choice.config.get(entry.adds, entry.amount)
            self.beside = f" + {amount}" if isinstance(amount, str) else f" + r{amount}"
            self.rounded = choice.label if choice.config.get(entry.rounds_term) else ""
            self.pattern = ""
        elif self.dropping and self.pattern and (entry.prior or entry.keeps_pattern):
            own = self.pattern
        elif not entry.dense:
            self.pattern = ""
        if self.first and entry.turns and choice.config.get(entry.turns, True):
            self.turned = choice.name
        if not entry.transform:
            self.first = self.first or choice.name
        self.pattern = own or self.pattern
        self.stages.append(make_stage(choice, "methods").model_copy(update={"pattern": own or self.beside}))

    def _refusals(self, choice: Choice, entry: CatalogEntry) -> Iterator[str]:
        """Yield why a choice cannot be the next stage."""
        name, label, dropping = choice.name, choice.label, self.dropping
        without_prior = label.split(":from=")[0]
        hidden = bool(entry.trains and choice.config.get("hidden"))
        if self.beside and (entry.adds or entry.drops or not (entry.prior or entry.keeps_pattern)):
            yield (
                f"{name} cannot follow a low-rank term, which would no longer fit: use it before lowrank, "
                f"lowrank:from={name}"
            )
        if self.rounded:
            yield f"{name} would change the factors that {self.rounded} has rounded: leave one of the two out"
        if entry.transform and not self.pattern:
            yield (
                f"{label} must come before pruning, because it would fill the zeros: use METHOD:from={without_prior}"
            )
        if self.stages and not self.first and (entry.prior or entry.refines) and not entry.adds:
            yield (
                f"{label} needs a pruned model, and a transform prunes nothing: put a method that prunes behind it, "
                f"{label}+wanda"
            )
        if entry.drops and (dropping or self.pattern != "dense"):
            yield (
                f"{label} must come first, because it removes parts of a dense model: use METHOD:from={without_prior}, "
                "without from= in it"
            )
        if dropping and entry.same_blocks:
            yield (
                f"{name} needs for each block the dense model's block of the same number and shapes, and "
                f"{dropping.label} changes them: use recon or retrain in place of {name}"
            )
        if dropping and dropping.name != "width" and hidden:  # width keeps the shape of what a block puts out
            what = "blocks" if dropping.name == "depth" else "channels"
            yield (
                f"{label} compares the output of each block with the dense model's, and {dropping.label} removes {what}: "
                "leave hidden out"
            )
        if dropping and dropping.name == "channels" and entry.same_outputs:
            yield (
                f"{name} compares the output of each block with the dense model's, and {dropping.label} removes "
                f"channels: use retrain in place of {name}"
            )
        # The teacher has the transforms before all other stages only.
        if self.turned and (entry.same_outputs or entry.same_blocks or hidden):
            yield (
                f"{name} compares blocks with the dense model's, and {self.turned} after {self.first} changes the basis "
                f"of this model alone: put {self.turned} first, {self.first}:from={self.turned}"
            )


def with_transform(chain: list[Choice], quantizer: Choice) -> list[Choice]:
    """Return the stages of a method with the quantizer's transform and group: first, but behind a stage that removes parts."""
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


def make_stage(choice: Choice, kind: Kind) -> Stage:
    """Return the stage of a choice, without its pattern and without the fields of a recipe."""
    entry = registry.lookup(kind, choice.name)
    config = dict(choice.config)
    if file := config.get(entry.file or entry.settings_file):
        try:
            config["sha256"] = content_digest(Path(file)) if entry.elsewhere else digests.of_file(Path(file))
        except OSError as fault:
            raise UserError(f"{choice.label}: file {file!r} cannot be read: {fault.strerror}") from None
    return Stage(
        name=choice.name,
        label=choice.label,
        target=entry.target,
        source=method_digest(entry),
        config=config,
        needs=entry.needs_with(choice.config),
        kind=kind,
    )
