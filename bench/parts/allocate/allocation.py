"""Share a budget of bits, or of kept weights, among the linears of a model by the damage that each
choice does.

The damage of a quantizer or a pattern in one linear is the KL divergence from the model without it,
on calibration text, while all other linears are unchanged. An integer program finds the choices of
the lowest sum within the budget. Sums assume that damages add up, so swaps of choices are then
measured in the whole model. After EvoPress (arXiv 2410.14649).

All this is on one half of the text. The other half judges the result beside each choice that fits
the budget alone, and the better one is the allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from bench.catalog.choice import as_typed, parse_chain
from bench.catalog.entries import CONTROL, DEFAULT_PRUNER
from bench.catalog.registry import lookup
from bench.execution.build import Builder
from bench.execution.job import Silent
from bench.execution.phase import phase
from bench.formats.stored import StoredFolder
from bench.inputs import loading
from bench.parts.allocate.allocated import (
    CODE,
    LINEARS,
    PRUNER,
    LinearChoice,
    code_of,
    parse_pruner,
    require_stored,
)
from bench.planning.artifact import Artifact
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.results.computed import memory
from bench.system.cache import in_use
from bench.system.text import amount
from methods.contract.errors import UserError
from methods.contract.info import Does
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.targets import dense_weight

CALIBRATED = "int4-gptq"
"""Quantizer whose plan has the calibration text, which all choices share."""
TOLERANCE = 1e-9
"""Rounding error of a sum that is equal to the budget."""
BATCH = 8
"""Sequences in a forward pass."""
NEAR = 0.02
"""Largest relative difference of a choice alone from the budget that counts as equal bytes."""
Floats = np.ndarray[Any, np.dtype[np.float64]]
Chosen = np.ndarray[Any, np.dtype[np.int64]]
"""Number of the choice of each linear."""
Predicted = list[tuple[Tensor, Tensor]]
"""Batches of tokens, and the log-probabilities that the source gives for each."""


class Budget(NamedTuple):
    """Limit of the mean over all weights."""

    limit: float
    of_kept: bool = False
    """True if the limit is of the kept fraction, false if it is of bits with scales and masks."""

    @property
    def option(self) -> str:
        return "--kept" if self.of_kept else "--bits"


@dataclass(frozen=True)
class Share:
    """A choice for each linear, with its size and its damage."""

    name: str
    linears: dict[str, str]
    bits: float
    """Mean bits per weight, with scales and masks."""
    kept: float
    """Mean fraction of weights that are kept."""
    predicted: float
    """Sum of the damages of the linears, in nats per token."""
    measured: float
    """KL divergence of the whole model on the text that judges, in nats per token."""


def allocate(
    spec: Spec,
    choices: Sequence[str],
    budget: Budget,
    tokens: int,
    swaps: int,
    note: Callable[[str], None],
    pruner: str = DEFAULT_PRUNER,
) -> list[Share]:
    """Return the allocation within a budget, and that of each choice alone.

    Args:
        spec: one model, one method, whose result is quantized, and one seed.
        choices: as `LinearChoice.parse` reads them.
        tokens: number of calibration tokens. Damage is measured on half of them, and the other
            half judges the result.
        swaps: number of measured swaps.
        note: receives a line when a phase begins.
        pruner: method that prunes the linears whose choice has a pattern.

    Raises:
        UserError: an unknown choice, a pruner or a method that does not fit, or a budget below that
            of the smallest.
    """
    parsed = [LinearChoice.parse(name) for name in choices]
    with in_use():
        artifacts = _artifacts(spec, parsed, pruner)
        with in_use(*{name for artifact in artifacts for name in artifact.cache_names}):
            return _allocate(
                _Problem(artifacts, choices, parsed, note), budget, tokens, swaps, note
            )


def _allocate(
    problem: _Problem, budget: Budget, tokens: int, swaps: int, note: Callable[[str], None]
) -> list[Share]:
    problem.make()
    cost = problem.costs(budget)
    least = cost.min(1).sum()
    if not fits(least, budget):
        unit = "kept weights" if budget.of_kept else "bits"
        raise UserError(
            f"{budget.option} {budget.limit:g} is below the {least:.4g} {unit} of the smallest "
            "choices: raise it"
        )
    problem.read(tokens)
    damage = problem.measure_damage()
    first = solve(damage, cost, budget)
    last = problem.refine(first, damage, cost, budget.limit, swaps)
    mixed = [problem.describe("allocated", last, damage)]
    if (first != last).any():
        mixed.append(problem.describe("before swaps", first, damage))
    alone = []
    for k, name in enumerate(problem.choices):
        alone.append(problem.describe(name, np.full(len(first), k), damage))
    fitting = [s for s, spent in zip(alone, cost.sum(0), strict=True) if fits(spent, budget)]
    if np.abs(cost.sum(0) - budget.limit).min() > NEAR * budget.limit:
        note(f"no choice alone comes near {budget.option} {budget.limit:g}: add one, to compare")
    best = min((*mixed, *fitting), key=lambda share: share.measured)
    if best is not mixed[0]:
        note(f"{best.name} is better than the allocation that was found, and takes its place")
        mixed = [replace(best, name="allocated"), replace(mixed[0], name="found"), *mixed[1:]]
    return [*mixed, *alone]


def fits(spent: float, budget: Budget) -> bool:
    """Return whether a sum of costs is within the budget."""
    return spent <= budget.limit + TOLERANCE


def _artifacts(spec: Spec, choices: Sequence[LinearChoice], pruner: str) -> list[Artifact]:
    """Return the artifact of each choice, and behind them one with the calibration text that all
    share."""
    (method,) = spec.methods
    chain = parse_chain(method)
    patterns = [str(choice.pattern) for choice in choices if not choice.pattern.dense]
    methods, pruned = [method], method
    if patterns:
        parse_pruner(pruner)
        if not all(lookup("methods", stage.name).does & Does.LEAVES_DENSE for stage in chain):
            raise UserError(
                f"{method} prunes, so its linears cannot have other patterns: leave {patterns[0]} "
                "out"
            )
        pruned = pruner if method == CONTROL else f"{pruner}:from={_as_prior(method)}"
        methods.append(pruned)
    quantizers = dict.fromkeys((*(choice.quantizer for choice in choices), CALIBRATED))
    wanted = {
        "methods": tuple(methods),
        # A file of choices says nothing of the embedding and the head.
        "quantizers": tuple(map(as_typed, quantizers)),
        "patterns": tuple(patterns) or spec.patterns,
    }
    plan = make_plan(spec.model_copy(update=wanted | {"shard": None}), fetch=True)
    known = {
        (m.artifact.pruner.label, m.artifact.pattern, m.artifact.quantizer): m.artifact
        for m in plan.measurements
    }

    pattern_of_method = next(pattern for label, pattern, _ in known if label == method)
    artifacts = []
    for choice in (*choices, LinearChoice(Pattern(), CALIBRATED)):
        if choice.pattern.dense:
            label, pattern = method, pattern_of_method
        else:
            label, pattern = pruned, str(choice.pattern)
        artifacts.append(known[label, pattern, choice.quantizer])
    return artifacts


def _as_prior(method: str) -> str:
    """Return a typed method as the `from=` of another: "awq:group=32:from=rotate" is
    "rotate+awq/group=32"."""
    stages = []
    for choice in parse_chain(method):
        settings = [part for part in choice.label.split(":") if not part.startswith("from=")]
        stages.append("/".join(settings))
    return "+".join(stages)


def solve(damage: Floats, cost: Floats, budget: Budget) -> Chosen:
    """Return the choice of each linear with the lowest sum of damages, int64 [linears], or raise
    UserError if none fits.

    damage: damage of each choice, [linears, choices]. cost: its part of the budget, [linears,
    choices].
    """
    linears, choices = damage.shape
    one_each = LinearConstraint(np.kron(np.eye(linears), np.ones(choices)), 1, 1)
    within = LinearConstraint(cost.reshape(1, -1), -np.inf, budget.limit + TOLERANCE)
    ones = np.ones(damage.size)
    found = milp(
        damage.ravel(), integrality=ones, bounds=Bounds(0, 1), constraints=[one_each, within]
    )
    if found.x is None:
        raise UserError(f"no choices fit {budget.option} {budget.limit:g}: raise it")
    chosen: Chosen = found.x.reshape(damage.shape).argmax(1)
    return chosen


def find_swap(
    chosen: Chosen, damage: Floats, cost: Floats, limit: float, tried: Collection[tuple[int, ...]]
) -> Chosen | None:
    """Return the choices after the pair of changes with the lowest predicted damage that fits the
    limit and was not tried, or None if there is none."""
    rows = np.arange(len(chosen))
    spent, moved = cost[rows, chosen].sum(), damage - damage[rows, chosen][:, None]
    extra = cost - cost[rows, chosen][:, None]
    sums = moved.ravel()[:, None] + moved.ravel()
    sums[extra.ravel()[:, None] + extra.ravel() > limit - spent + TOLERANCE] = np.inf
    for at in sums.ravel().argsort(kind="stable")[: np.isfinite(sums).sum()]:
        one, two = divmod(int(at), damage.size)
        i, k = divmod(one, damage.shape[1])
        j, other = divmod(two, damage.shape[1])
        swapped = chosen.copy()
        swapped[i], swapped[j] = k, other
        if i != j and tuple(swapped) not in tried:
            return swapped
    return None


class _Problem:
    """The weights of each linear under each choice, and the model in which they are tried."""

    def __init__(
        self,
        artifacts: Sequence[Artifact],
        choices: Sequence[str],
        parsed: Sequence[LinearChoice],
        note: Callable[[str], None],
    ) -> None:
        """artifacts: one for each choice, and one with the calibration text."""
        self.choices, self._note = choices, note
        self._known = memory(__name__)
        """What an interrupted command has measured, and one with another budget."""
        *self._quantized, self._calibrated = artifacts
        builder = Builder(self._calibrated, Silent())
        self._workspace, compute = builder.workspace, builder.workspace.compute
        if compute.stream:
            raise UserError(
                "bench allocate needs the whole model in memory, and this one would be streamed: "
                "use a machine with more memory, and leave --set stream=true and --max-memory out"
            )
        source = Folder(
            builder.build(self._calibrated.up_to(len(self._calibrated.stages) - 1)).folder
        )
        self._source, self.targets = source, self._workspace.targets_of(source)
        known = source.shapes()
        self._shapes = [known[f"{target}.weight"] for target in self.targets]
        sizes = np.array([out * width for out, width in self._shapes], float)
        self.share: Floats = sizes / sizes.sum()
        """Part of all weights that each linear has."""
        # A choice without a pattern keeps the method's.
        self._patterns = [Pattern.parse(artifact.pattern) for artifact in self._quantized]
        self._plain = 8 * compute.stored.itemsize
        self.bits: Floats = np.zeros((len(self._shapes), len(parsed)))
        """Bits per weight, with scales and masks, [linears, choices]. `make` counts them."""
        self.kept: Floats = np.tile([c.kept for c in parsed], (len(self._shapes), 1))
        """Kept fraction of the weights, [linears, choices]."""

    def make(self) -> None:
        """Make the model of each choice, and count the bits of its linears."""
        self._folders = []
        for k, (name, artifact) in enumerate(zip(self.choices, self._quantized, strict=True)):
            with phase(f"making {name}", self._note) as progress:
                folder = Folder(Builder(artifact, progress).build(artifact).folder)
            self._folders.append(folder)
            stored, pattern = StoredFolder(folder.path), self._patterns[k]
            if artifact.quantizer != "none":
                require_stored(name, stored)
            mask = 0 if pattern.dense else pattern.mask_bits
            self.bits[:, k] = self._plain * (1 - pattern.share) + mask
            for i, (out, width) in enumerate(self._shapes):
                if self.targets[i] in stored:
                    self.bits[i, k] = 8 * sum(stored.sizes(self.targets[i])) / (out * width)

    def read(self, tokens: int) -> None:
        """Read the model and the text in which choices are compared: half of the tokens to choose,
        half to judge."""
        self._model = loading.load(self._source.path, self._workspace.compute)
        text = self._workspace.calibration(self._calibrated).to(self._workspace.compute.device)
        self._about = [self._calibrated.key, tokens, torch.__version__]
        half = min(len(text), max(2, tokens // text.shape[1])) // 2
        if not half:
            raise UserError("bench allocate needs two calibration sequences: use more of them")
        self._text = self._with_predictions(text[:half])
        self._judge = self._with_predictions(text[half : 2 * half])

    def _with_predictions(self, text: Tensor) -> Predicted:
        """Return batches of a text, and the source's log-probabilities for each."""
        return [(part, self._log_probabilities(part)) for part in text.split(BATCH)]

    def costs(self, budget: Budget) -> Floats:
        """Return the part of the budget that each choice takes in each linear, [linears,
        choices]."""
        costs = self.kept if budget.of_kept else self.bits
        return costs * self.share[:, None]

    def measure_damage(self) -> Floats:
        """Return the damage of each choice in each linear alone, [linears, choices]."""
        damage = np.zeros(self.bits.shape)
        keys = [artifact.key for artifact in self._quantized]
        with phase(f"measuring {amount(damage.size, 'damage')}", self._note) as progress:
            for i, target in enumerate(self.targets):
                about = "damage", target, keys
                known: list[float] | None = self._known.get(*self._about, *about)
                if known is None:
                    known = self._damages(target)
                    self._known.put(known, *self._about, *about)
                    self._known.save()
                    progress.advance((i + 1) * len(keys), damage.size)
                damage[i] = known
        return damage

    def _damages(self, target: str) -> list[float]:
        damages = []
        for folder in self._folders:
            self._set(target, folder)
            damages.append(self._divergence(self._text))
        self._set(target, self._source)
        return damages

    def measure(self, chosen: Chosen, judge: bool = False) -> float:
        """Return the KL divergence of the whole model under a choice for each linear. judge: on the
        text that judges."""
        about = "model", judge, [self._quantized[k].key for k in chosen]
        known: float | None = self._known.get(*self._about, *about)
        if known is None:
            for target, k in zip(self.targets, chosen, strict=True):
                self._set(target, self._folders[k])
            known = self._divergence(self._judge if judge else self._text)
            self._known.put(known, *self._about, *about)
            self._known.save()
        return known

    def refine(
        self, chosen: Chosen, damage: Floats, cost: Floats, limit: float, swaps: int
    ) -> Chosen:
        """Try the pairs of changes with the lowest predicted damage in the whole model, and keep
        what lowers its own."""
        best, tried = self.measure(chosen), {tuple(chosen)}
        with phase(f"measuring up to {amount(swaps, 'swap')}", self._note) as progress:
            for swap in range(swaps):
                candidate = find_swap(chosen, damage, cost, limit, tried)
                if candidate is None:
                    break
                tried.add(tuple(candidate))
                measured = self.measure(candidate)
                if measured < best:
                    best, chosen = measured, candidate
                progress.advance(swap + 1, swaps)
        return chosen

    def describe(self, name: str, chosen: Chosen, damage: Floats) -> Share:
        """Return a choice with its bits, and its predicted and measured damage."""
        rows = np.arange(len(chosen))
        return Share(
            name=name,
            linears={
                target: self.choices[k] for target, k in zip(self.targets, chosen, strict=True)
            },
            bits=float(self.bits[rows, chosen] @ self.share),
            kept=float(self.kept[rows, chosen] @ self.share),
            predicted=float(damage[rows, chosen].sum()),
            measured=self.measure(chosen, judge=True),
        )

    def _set(self, target: str, folder: Folder) -> None:
        with torch.no_grad():
            dense_weight(self._model.get_submodule(target)).copy_(folder.weight(target))

    @torch.inference_mode()
    def _log_probabilities(self, part: Tensor) -> Tensor:
        logits: Tensor = self._model(input_ids=part, use_cache=False).logits
        return logits.float().log_softmax(-1)

    def _divergence(self, text: Predicted) -> float:
        """Return the mean KL divergence from the source's predictions, in nats per token."""
        total = 0.0
        for part, expected in text:
            found = self._log_probabilities(part)
            total += float(nn.functional.kl_div(found, expected, log_target=True, reduction="sum"))
        mean: float = total / sum(part.numel() for part, _ in text)
        return mean


def to_file(shares: Sequence[Share], budget: Budget, spec: Spec, pruner: str) -> dict[str, Any]:
    """Return the content of the file that the quantizer `allocated` reads, JSON."""
    best = shares[0]
    about: dict[str, Any] = {
        "model": spec.models[0],
        "method": spec.methods[0],
        "seed": spec.seeds[0],
    }
    rounded = {}
    for share in shares:
        numbers = {name: getattr(share, name) for name in ("bits", "kept", "predicted", "measured")}
        rounded[share.name] = {name: float(f"{value:.4g}") for name, value in numbers.items()}
    parsed = [LinearChoice.parse(name) for name in sorted(set(best.linears.values()))]
    quantizers = sorted({choice.quantizer for choice in parsed} - {"none"})
    about[CODE] = {quantizer: code_of(quantizer, "quantizers") for quantizer in quantizers}
    if best.kept < 1:
        about[PRUNER] = {"method": pruner, "code": code_of(pruner, "methods")}
    limit = {budget.option.removeprefix("--"): budget.limit}
    return about | {"budget": limit, "damage": rounded, LINEARS: best.linears}
