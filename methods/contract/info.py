"""Facts that the class of a method states besides its fields: its source and cost, what it does,
and what it may follow. They decide no number, and are no part of a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Flag, auto
from typing import Any

from methods.contract.axes import AXES
from methods.contract.pattern import Pattern

DECIDES_NO_NUMBER = True


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work and memory of a method besides the model, from which `bench ls methods --long` estimates
    its cost."""

    passes: float = 0
    """Number of forward passes over the calibration tokens."""
    hessians: float = 0
    """Number of float32 matrices [in, in] for each distinct input of a block."""
    launches: float = 0
    """Kernels that a card runs one after the other for each input column of each linear."""
    training: float = 0
    """FLOP per weight and training token: 2 for a forward pass, 4 for a backward pass."""
    tokens: float | None = None
    """Number of training tokens; None for those of the recipe for the model's size."""
    state: float = 0
    """Bytes per weight: gradients, moments, masks, teacher."""
    tuning: str = ""
    """Field with the number of steps on one calibration sequence in which it trains a block after
    each of its inputs, and twice as many through the model at the end; "" for none."""
    whole_blocks: bool = False
    """True if it works on a whole block at a time. A streamed mixture then has all experts of a
    block in memory."""
    also: str = ""
    """Other costs, in words. A measured number needs its source."""


TRAINING = Cost(training=6, state=16)
"""Cost of a forward and a backward pass, with weight, gradient and two moments in float32."""

DISTILLATION = Cost(training=8, state=18)
"""Cost of `TRAINING` and a forward pass of a teacher in bfloat16."""

HESSIANS_PER_LINEAR = 1.3
"""Hessians of a library that has one per linear, not one per input: (6 4096^2 + 11008^2) / (3
4096^2 + 11008^2)."""


class Does(Flag):
    """Capabilities of a method, joined by |.

    PRUNES: its targets have the run's pattern at the end. REMOVES, ADDS: it removes parts of a
    dense model, or adds a low-rank term beside each target; `removes` or `adds` says how much.
    KEEPS_FUNCTION: it changes weights of a model that is not pruned yet, and no output. KEEPS_MASK:
    it trains a model under the pattern that this has. REFINES: it needs a model that another method
    pruned. CONTROL: its model stays dense. IMPORTS: it takes a model made elsewhere, which may
    differ from its source in any tensor, and has the pattern that is found in it. KEEPS_WEIGHTS: a
    quantizer that changes no weight, so that the embedding and the head keep their format.
    """

    PRUNES = auto()
    REMOVES = auto()
    ADDS = auto()
    KEEPS_FUNCTION = auto()
    KEEPS_MASK = auto()
    REFINES = auto()
    CONTROL = auto()
    IMPORTS = auto()
    KEEPS_WEIGHTS = auto()
    LEAVES_DENSE = REMOVES | KEEPS_FUNCTION | CONTROL


@dataclass(frozen=True)
class Removes:
    """Parts that a method removes along an axis."""

    axis: str
    """Name of the axis in `methods.contract.axes`."""
    fields: tuple[str, ...]
    """Fields with the number or share of them. The first that is set counts."""

    def __post_init__(self) -> None:
        """Raise TypeError if the axis is unknown."""
        if self.axis not in AXES:
            raise TypeError(f"there is no axis {self.axis!r}: known are {', '.join(AXES)}")


@dataclass(frozen=True)
class Adds:
    """Low-rank term that a method adds beside each target."""

    amount: str
    """Field with its rank, or with its share of a linear's bytes."""
    rounded: str = ""
    """Field that rounds its factors if it is set. No training may follow then."""


@dataclass(frozen=True)
class InputFile:
    """File that a method reads. The field `sha256` identifies its content."""

    field: str
    """Field that names the file."""
    required: bool = False
    """True if the user must name it. A file that may be left out takes the place of all that the
    method needs."""


@dataclass(frozen=True)
class Variant:
    """Difference of a method from its paper."""

    words: str
    """Words that tables add to the method's name."""
    unless: str = ""
    """Field that decides this. If the user sets it, the name has it already."""


@dataclass(frozen=True)
class Link:
    """A method of a chain, with its settings."""

    name: str
    label: str
    """Method as the user typed it."""
    info: MethodInfo
    settings: Mapping[str, Any]
    """Values of its fields: defaults, and what the user typed."""
    trains: bool = False

    @property
    def alone(self) -> str:
        """The label without the methods before it."""
        return self.label.split(":from=")[0]

    @property
    def turns(self) -> bool:
        """True if it changes the basis of the residual stream, in which blocks are compared."""
        return any(rule.turns(self) for rule in self.info.rules)

    @property
    def folds(self) -> bool:
        """True if it moves norms into linears, which not every family allows."""
        return any(rule.folds(self) for rule in self.info.rules)

    @property
    def shares(self) -> dict[str, int | str]:
        """Number or share of the parts that it removes, by axis."""
        return {part.axis: self._first_set(part.fields)[1] for part in self.info.removes}

    @property
    def options(self) -> dict[str, str]:
        """Setting that says how many parts it removes, as "width:drop", by axis."""
        set_by = {part.axis: self._first_set(part.fields)[0] for part in self.info.removes}
        return {axis: f"{self.name}:{name}" for axis, name in set_by.items()}

    def _first_set(self, names: tuple[str, ...]) -> tuple[str, int | str]:
        values = [(name, self.settings.get(name)) for name in names]
        return next((name, value) for name, value in values if value is not None)


@dataclass(frozen=True)
class Chain:
    """The methods before another one, in order. Immutable: `then` returns a longer chain."""

    links: tuple[Link, ...] = ()
    pattern: str = "dense"
    """Pattern of the weights: "dense", "depth 25%" of a smaller model, or "" for one of the run."""
    beside: str = ""
    """Text behind the pattern: " + r16" for a low-rank term, as in `Pattern.parse`."""

    @property
    def own_pattern(self) -> str:
        """Pattern that the last method alone decides: of a smaller model that it makes, or trains
        further."""
        does = self.links[-1].info.does
        is_smaller = Does.REMOVES in does or (self.remover is not None and Does.KEEPS_MASK in does)
        return self.pattern if is_smaller else ""

    def then(self, link: Link) -> Chain:
        """Return the chain with another method."""
        does, pattern, beside = link.info.does, self.pattern, self.beside
        if link.info.removes:
            pattern = f"{link.name} {next(iter(link.shares.values()))}"
        elif link.info.adds:
            amount = link.settings[link.info.adds.amount]
            rank = amount if isinstance(amount, str) else f"r{amount}"
            pattern, beside = "", f" + {rank}"
        elif not does & Does.LEAVES_DENSE and not (self.remover and Does.KEEPS_MASK in does):
            pattern = ""
        return Chain((*self.links, link), pattern, beside)

    @property
    def remover(self) -> Link | None:
        """Method that removed parts of the model."""
        return next((link for link in self.links if Does.REMOVES in link.info.does), None)

    @property
    def adder(self) -> Link | None:
        """Method that added a low-rank term."""
        return next((link for link in self.links if Does.ADDS in link.info.does), None)

    @property
    def first(self) -> Link | None:
        """First method that changes the model's function. A teacher has what comes before it."""
        return next(
            (link for link in self.links if Does.KEEPS_FUNCTION not in link.info.does), None
        )

    @property
    def turned(self) -> Link | None:
        """Last method after `first` that changed the basis of the residual stream, so that a
        teacher has another."""
        first, last, has_changed = self.first, None, False
        for link in self.links:
            has_changed = has_changed or link is first
            if has_changed and link.turns:
                last = link
        return last


@dataclass(frozen=True)
class Rule:
    """Limit of a method: on the methods before it, on the pattern, or on what it needs.

    Each function has a default without a limit. `methods.contract.rules` has the rules of this
    project, and a method of another package may derive its own.
    """

    def follows(self, own: Link, chain: Chain) -> str | None:
        """Return why a method cannot follow a chain, or None."""
        return None

    def takes(self, own: Link, pattern: Pattern) -> None:
        """Raise UserError if a method cannot prune to a pattern."""

    def waives(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what the class needs, and not with these settings: names of `Needs` in lower
        case."""
        return ()

    def draws(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the seed decides the result even without calibration and training."""
        return False

    def turns(self, own: Link) -> bool:
        """Return whether a method changes the basis of the residual stream."""
        return False

    def folds(self, own: Link) -> bool:
        """Return whether a method moves norms into linears."""
        return False


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """Source, cost, capabilities and limits of a method or quantizer.

    A class has it as `info: ClassVar[MethodInfo]`. The catalog evaluates that expression without
    importing the class, so it may use literals, `Needs`, and the names of this module and of
    `methods.contract.rules`.
    """

    paper: str = ""
    """arXiv number, "VENUE YEAR", or "none" for a control."""
    cost: Cost | None = None
    """Estimated cost; None if unknown."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings that can be typed as one word, by that word."""
    does: Does = Does.PRUNES
    """Capabilities of a method. Of a quantizer only KEEPS_WEIGHTS counts."""
    removes: tuple[Removes, ...] = ()
    """Parts that it removes. The first names its pattern: "depth 25%" for the method depth with
    25%."""
    adds: Adds | None = None
    """Low-rank term that it adds."""
    rules: tuple[Rule, ...] = ()
    """Limits in addition to those that its capabilities imply (`methods.contract.rules`)."""
    after: str = ""
    """Method that runs before it. A method runs after another one if the user types `from=`. For a
    quantizer it is a transform, which runs before any pruning and with the quantizer's `group`; a
    run refuses other settings than these."""
    file: InputFile | None = None
    """File that it reads."""
    extra: str = ""
    """Extra of cast-bench that installs its library."""
    environment: str = ""
    """Environment that it runs in, for `bench env create`."""
    variant: Variant | None = None
    """Difference from its paper."""

    def __new__(cls, **values: Any) -> MethodInfo:
        """Raise TypeError for an unknown field, with all that are known."""
        known = [each.name for each in fields(cls)]
        unknown = next((name for name in values if name not in known), "")
        if unknown:
            raise TypeError(f"info has no field {unknown!r}: its fields are {', '.join(known)}")
        return object.__new__(cls)
