"""The stages of a method in order. The methods themselves say which cannot follow which
(`methods.contract.rules`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bench.catalog import registry
from bench.catalog.choice import Choice, parse_method
from bench.catalog.code import method_digest
from bench.catalog.entries import CONTROL
from bench.planning.artifact import EmbeddingFormat, Stage
from bench.system import digests
from bench.system.source_digest import digest_source
from methods.contract import rules
from methods.contract.errors import UserError
from methods.contract.info import Chain, Does

Kind = Literal["methods", "quantizers"]


class MethodStages(NamedTuple):
    stages: tuple[Stage, ...]
    """Stages in order. A stage has a pattern if its method alone decides it."""
    pattern: str
    """Pattern of the weights if that is not a pattern of the run: "dense" for a control, "depth
    25%" of a smaller one."""

    beside: str = ""
    """Text behind the pattern: " + r16" for a low-rank term, as in `Pattern.parse`. It is the
    pattern of later stages, too."""

    @property
    def elsewhere(self) -> Stage | None:
        """Stage that takes a model of another tool, or None."""
        return next((s for s in self.stages if Does.IMPORTS in s.entry.does), None)


def stages_of(choices: Sequence[Choice]) -> MethodStages:
    """Return the stages of a method, or raise UserError if one of them cannot follow those before
    it."""
    chain, stages = Chain(), []
    for choice in choices:
        link = registry.lookup("methods", choice.name).link(
            choice.name, choice.label, choice.config
        )
        reason = rules.refusal(link, chain)
        if reason:
            raise UserError(reason)
        chain = chain.then(link)
        stage = make_stage(choice, "methods")
        stages.append(stage.model_copy(update={"pattern": chain.own_pattern or chain.beside}))
    return MethodStages(tuple(stages), chain.pattern, chain.beside)


def with_transform(chain: list[Choice], quantizer: Choice) -> list[Choice]:
    """Return the stages of a method with the quantizer's transform and group: first, but behind a
    stage that removes parts."""
    after = parse_method(registry.lookup("quantizers", quantizer.name).after)
    name, group = after.name, quantizer.config.get("group")
    typed = next((choice for choice in chain if choice.name == name), None)
    if typed:
        for field, value in {**after.config, "group": group}.items():
            own = typed.config.get(field, value)
            if own != value:
                if field == "group":
                    use = f"use {quantizer.name}:group={own}"
                else:
                    use = f"use a quantizer of {own} {field}"
                raise UserError(
                    f"{typed.label} and {quantizer.label} differ in {field}: {use}, or leave the "
                    f"{field} of {name} out"
                )
        if group and "group" not in typed.config:
            with_group = parse_method(f"{typed.label}:group={group}")
        else:
            with_group = typed
        return [with_group if choice is typed else choice for choice in chain]
    first = registry.lookup("methods", chain[0].name).does
    if Does.IMPORTS in first:
        raise UserError(
            f"{quantizer.label} needs {name} before all else, and {chain[0].label} was made "
            "elsewhere: leave one of the two out"
        )
    if group:
        name = f"{name}:group={group}"
    transform = parse_method(name)
    rest = [choice for choice in chain if choice.name != CONTROL]
    count = int(Does.REMOVES in first)
    return [*rest[:count], transform, *rest[count:]]


def make_stage(choice: Choice, kind: Kind) -> Stage:
    """Return the stage of a choice, without its pattern and without the fields of a recipe."""
    entry = registry.lookup(kind, choice.name)
    config = dict(choice.config)
    if entry.file and (file := config.get(entry.file.field)):
        try:
            digest = digests.of_file
            if Does.IMPORTS in entry.does:
                digest = registry.load(registry.lookup("services", "folder_digest"))
            config["sha256"] = digest(Path(file))
        except OSError as fault:
            raise UserError(
                f"{choice.label}: file {file!r} cannot be read: {fault.strerror}"
            ) from None
    outer = {}
    for name, value in choice.outer.items():
        source = digest_source(registry.lookup("embeddings", value).module)
        outer[name] = EmbeddingFormat(name=value, source=source)
    return Stage(
        outer=outer,
        name=choice.name,
        label=choice.label,
        target=entry.target,
        source=method_digest(entry),
        config=config,
        needs=entry.needs_with(choice.config),
        kind=kind,
    )
