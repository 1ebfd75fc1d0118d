"""Rules that a method's `info` may name, and those that its capabilities imply. They say why it
cannot follow a chain.

They decide no number. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from methods.contract.axes import AXES, Axis
from methods.contract.errors import UserError
from methods.contract.info import Chain, Does, Link, Rule
from methods.contract.pattern import Pattern

DECIDES_NO_NUMBER = True

PRUNER = "wanda"
"""Method that sentences name where any that prunes will do."""


def refusal(own: Link, chain: Chain) -> str | None:
    """Return why a method cannot follow a chain, or None: first by its capabilities, then by its
    own rules."""
    reasons = [*_implied(own, chain), *(rule.follows(own, chain) for rule in own.info.rules)]
    return next((reason for reason in reasons if reason), None)


def lacks_prior(name: str) -> str:
    """Return the sentence for a method that refines another one, and is typed alone."""
    return (
        f"{name} refines a pruned model: name the method that prunes it, for example "
        f"{name}:from={PRUNER}"
    )


def _implied(own: Link, chain: Chain) -> Iterator[str]:
    """Yield why a method cannot follow a chain by what both do."""
    does, name, adder = own.info.does, own.name, chain.adder
    if adder and Does.KEEPS_MASK not in does:
        yield (
            f"{name} cannot follow a low-rank term, which would no longer fit: use it before "
            f"{adder.name}, {adder.name}:from={name}"
        )
    if adder and adder.info.adds and adder.settings.get(adder.info.adds.rounded):
        yield (
            f"{name} would change the factors that {adder.label} has rounded: leave one of the "
            "two out"
        )
    if Does.KEEPS_FUNCTION in does and not chain.pattern:
        yield (
            f"{own.label} must come before pruning, because it would fill the zeros: use "
            f"METHOD:from={own.alone}"
        )
    if Does.REFINES in does and chain.links and not chain.first:
        yield (
            f"{own.label} needs a pruned model, and a transform prunes nothing: put a method that "
            f"prunes behind it, {own.label}+{PRUNER}"
        )
    if Does.REMOVES in does and (chain.remover or chain.pattern != "dense"):
        yield (
            f"{own.label} must come first, because it removes parts of a dense model: use "
            f"METHOD:from={own.alone}, without from= in it"
        )
    # a field of methods.workshop.training.settings, which every method that trains has
    if own.trains and own.settings.get("hidden"):
        removed = _removed(chain, lambda axis: not axis.in_block)
        if removed:
            yield (
                f"{own.label} compares the output of each block with the dense model's, and "
                f"{removed}: leave hidden out"
            )
        yield from _turned(name, chain)


def _removed(chain: Chain, matters: Callable[[Axis], bool]) -> str:
    """Return words for what was removed before, such as "depth removes blocks". "": nothing that
    matters."""
    remover = chain.remover
    if remover is None:
        return ""
    axes = (AXES[part.axis] for part in remover.info.removes)
    return next((f"{remover.label} removes {axis.noun}" for axis in axes if matters(axis)), "")


def _turned(name: str, chain: Chain) -> Iterator[str]:
    """Yield a sentence if the model has another basis than the dense model. A teacher has only the
    first transforms."""
    turned = chain.turned
    if turned and (first := chain.first):
        yield (
            f"{name} compares blocks with the dense model's, and {turned.name} after {first.name} "
            f"changes the basis of this model alone: put {turned.name} first, "
            f"{first.name}:from={turned.name}"
        )


@dataclass(frozen=True)
class SameBlocks(Rule):
    """A method that needs each block of the dense model, whole."""

    def follows(self, own: Link, chain: Chain) -> str | None:
        remover = chain.remover
        if remover:
            return (
                f"{own.name} needs for each block the dense model's block of the same number and "
                f"shapes, and {remover.label} changes them: use recon or retrain in place of "
                f"{own.name}"
            )
        return next(_turned(own.name, chain), None)


@dataclass(frozen=True)
class SameOutputs(Rule):
    """A method that compares the outputs of blocks with the dense model's, and so needs all hidden
    channels."""

    def follows(self, own: Link, chain: Chain) -> str | None:
        removed = _removed(chain, lambda axis: axis.changes_outputs)
        if removed:
            return (
                f"{own.name} compares the output of each block with the dense model's, and "
                f"{removed}: use retrain in place of {own.name}"
            )
        return next(_turned(own.name, chain), None)


@dataclass(frozen=True)
class TurnsBasis(Rule):
    """A transform that changes the basis of the residual stream if a field is set."""

    field: str
    folds_norms: bool = False
    """True if it moves norms into linears for that."""

    def turns(self, own: Link) -> bool:
        return bool(own.settings.get(self.field))

    def folds(self, own: Link) -> bool:
        return self.folds_norms and self.turns(own)


@dataclass(frozen=True)
class GroupsOnly(Rule):
    """A method that takes n:m patterns only."""

    unless: str = ""
    """Field that lifts this limit if it is set."""

    def takes(self, own: Link, pattern: Pattern) -> None:
        if not own.settings.get(self.unless):
            pattern.require_groups(own.label)


@dataclass(frozen=True)
class SingleWeights(Rule):
    """A method of another library, whose patterns have no pairs."""

    def takes(self, own: Link, pattern: Pattern) -> None:
        if pattern.unit > 1:
            raise UserError(
                f"{own.label} keeps or removes single weights, and {pattern} needs pairs: use "
                f"{PRUNER} or sparsegpt"
            )


@dataclass(frozen=True)
class WholeGroups(Rule):
    """A method that works on blocks of columns, which must be a whole number of groups."""

    field: str
    """Field with the number of columns."""

    def takes(self, own: Link, pattern: Pattern) -> None:
        size = own.settings[self.field]
        if not pattern.fits(size):
            raise UserError(
                f"{own.label} works on blocks of {size} columns, which pattern {pattern} does not "
                f"divide: use another pattern, or {own.name}:{self.field}=N with a multiple of "
                f"{pattern.m}"
            )


@dataclass(frozen=True)
class CalibratedBy(Rule):
    """A method that needs calibration text only with some of its fields."""

    fields: tuple[str, ...]

    def waives(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        if any(settings.get(name) for name in self.fields):
            return ()
        return ("calibration",)


@dataclass(frozen=True)
class UncalibratedBy(Rule):
    """A method that needs no calibration text with some values of a field."""

    field: str
    values: tuple[str, ...]
    drawn: str = ""
    """Value with which the seed decides the result."""
    unless: tuple[str, ...] = ()
    """Fields with which it needs the text all the same."""

    def waives(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        if settings.get(self.field) not in self.values:
            return ()
        return () if any(settings.get(name) for name in self.unless) else ("calibration",)

    def draws(self, settings: Mapping[str, Any]) -> bool:
        return bool(self.drawn) and settings.get(self.field) == self.drawn
