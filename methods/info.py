"""Facts that the class of a method or measure states besides its fields. They decide no number, and are no part of a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DECIDES_NO_NUMBER = True


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work and memory of a method besides the model, from which `bench ls methods --long` estimates its cost."""

    passes: float = 0
    """Number of forward passes over the calibration tokens."""
    hessians: float = 0
    """Number of float32 matrices [in, in] for each distinct input of a block."""
    training: float = 0
    """FLOP per weight and training token: 2 for a forward pass, 4 for a backward pass."""
    tokens: float | None = None
    """Number of training tokens; None for those of the recipe for the model's size."""
    state: float = 0
    """Bytes per weight: gradients, moments, masks, teacher."""
    also: str = ""
    """Other costs, in words. A measured number needs its source."""


TRAINING = Cost(training=6, state=16)
"""Cost of a forward and a backward pass, with weight, gradient and two moments in float32."""

DISTILLATION = Cost(training=8, state=18)
"""Cost of `TRAINING` and a forward pass of a teacher in bfloat16."""

HESSIANS_PER_LINEAR = 1.3
"""Hessians of a library that has one per linear, not one per input: (6 4096^2 + 11008^2) / (3 4096^2 + 11008^2)."""


@dataclass(frozen=True, kw_only=True)
class MeasureInfo:
    """Facts about a measure. A class has it as `info: ClassVar[MeasureInfo]`, which is read as that of a method is."""

    leaderboard: tuple[str, ...] = ()
    """Metrics that a leaderboard shows at first, in this order: readings, and numbers derived from them."""


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """Source, cost and limits of a method or quantizer.

    A class has it as `info: ClassVar[MethodInfo]`. The catalog evaluates that expression without importing the class, so it
    may use literals, `Needs` and the names of this module.
    """

    paper: str = ""
    """arXiv number, "VENUE YEAR", or "none" for a control."""
    cost: Cost | None = None
    """Estimated cost; None if unknown."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings that can be typed as one word, by that word."""
    dense: bool = False
    """True if it is a control, whose model stays dense."""
    transform: bool = False
    """True if it changes weights and keeps the model's function. It is dense, too."""
    folds: str = ""
    """Field with which such a transform moves norms into linears, which not every family allows."""
    turns: str = ""
    """Field with which such a transform changes the basis of the residual stream, in which blocks are compared."""
    after: str = ""
    """Transform that a quantizer is named with: a run makes it first, before any pruning, with the same `group`. Its settings
    here are those of the quantizer, so a run refuses others."""
    drops: str = ""
    """Field with the share or number of blocks, or of a block's units, that it removes. The rest of the weights are kept."""
    adds: str = ""
    """Field with the rank, or the share of a linear's bytes, of a low-rank term that it adds beside each target."""
    rounds_term: str = ""
    """Field that rounds this term's factors, if it is set. No training may follow then."""
    same_blocks: bool = False
    """True if it needs each block of the dense model, whole, so that it cannot follow a method that `drops`."""
    same_outputs: bool = False
    """True if it compares the outputs of blocks with the dense model's, so that it cannot follow fewer hidden channels."""
    keeps_pattern: bool = False
    """True if it trains a model under the pattern that this has. A method with a `prior` does, too."""
    prior: str = ""
    """Stage that it refines if the user types no `from=`."""
    refines: bool = False
    """True if it refines another stage. Without a `prior`, the user must type `from=`."""
    groups_only: bool = False
    """True if it takes n:m patterns only."""
    columns: str = ""
    """Field that holds a number of columns, which must be a whole number of groups."""
    file: str = ""
    """Field that names a file. If it is set nothing else is needed, and the field `sha256` identifies the content."""
    calibrated_by: tuple[str, ...] = ()
    """Fields without any of which it needs no calibration text, although its class does."""
    settings_file: str = ""
    """Field that names a file with settings, which the user must name. The field `sha256` identifies the content."""
    elsewhere: bool = False
    """True if `file` names a model made elsewhere, which the user must name. It may differ from its source in any tensor, and
    has the pattern that is found in it."""
    whole_blocks: bool = False
    """True if it works on a whole block at a time. A streamed mixture then has all experts of a block in memory."""
    extra: str = ""
    """Extra of cast-bench that installs its library."""
    variant: str = ""
    """Words that tables add to the method's name: what it leaves out of its paper."""
    variant_field: str = ""
    """Field that decides this. If the user sets it, the name has it already."""
    environment: str = ""
    """Environment that it runs in, for `bench env create`."""
