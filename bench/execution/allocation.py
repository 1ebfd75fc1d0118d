"""Share a budget of bits among the linears of a model by the damage that each choice does.

The damage of a quantizer in one linear is the KL divergence from the model without it, on calibration text, while all other
linears are unchanged. An integer program finds the choices of the lowest sum within the budget. Sums assume that damages
add up, so swaps of choices are then measured in the whole model. After EvoPress (arXiv 2410.14649).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from bench.execution.build import Builder
from bench.inputs import loading
from bench.planning.artifact import Artifact
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.quantizers.allocated import CHOICES, bits_of
from bench.system.suggest import describe_unknown
from methods.errors import UserError
from methods.folder import Folder
from methods.targets import dense_weight, weight_shape

CALIBRATED = "int4-gptq"
"""Quantizer whose plan has the calibration text, which all choices share."""
BATCH = 8
"""Sequences in a forward pass."""
Floats = np.ndarray[Any, np.dtype[np.float64]]
Choice = np.ndarray[Any, np.dtype[np.int64]]
"""Number of the quantizer of each linear."""


@dataclass(frozen=True)
class Share:
    """A quantizer for each linear, with its bits and its damage."""

    name: str
    linears: dict[str, str]
    bits: float
    """Mean bits per weight, with scales."""
    predicted: float
    """Sum of the damages of the linears, in nats per token."""
    measured: float
    """KL divergence of the whole model, in nats per token."""


class _Silent:
    phase = ""

    def enter(self, state: str) -> None: ...
    def advance(self, done: int, total: int, **metrics: float) -> None: ...


def allocate(
    spec: Spec, choices: Sequence[str], budget: float, tokens: int, swaps: int, note: Callable[[str], None]
) -> list[Share]:
    """Return the allocation within a budget, and that of each choice alone.

    Args:
        spec: one model, one method, whose result is quantized, and one seed.
        budget: mean bits per weight, with scales.
        tokens: number of calibration tokens on which damage is measured.
        swaps: number of measured swaps.
        note: receives a line when a phase begins.

    Raises:
        UserError: an unknown choice, or a budget below that of the smallest.
    """
    for name in choices:
        if name not in CHOICES:
            raise UserError(describe_unknown("choice", name, CHOICES))
    plan = make_plan(spec.model_copy(update={"quantizers": (*choices, CALIBRATED)}), fetch=True)
    artifacts = {a.quantizer: a for a in (m.artifact for m in plan.measurements) if a.pruner.label == spec.methods[0]}
    problem = _Problem(artifacts, choices, tokens, note)
    if budget < (least := (problem.bits.min(1) @ problem.share)):
        raise UserError(f"--bits {budget:g} is below the {least:.4g} bits of the smallest choices: raise it")
    damage = problem.measure_damage()
    first = solve(damage, problem.bits * problem.share[:, None], budget)
    note(f"measuring up to {swaps} swaps")
    last = problem.refine(first, damage, budget, swaps)
    alone = [np.full(len(first), k) for k in range(len(choices))]
    named = [
        ("allocated", last),
        *([("before swaps", first)] if (first != last).any() else []),
        *zip(choices, alone, strict=True),
    ]
    return [problem.describe(name, chosen, damage) for name, chosen in named]


def solve(damage: Floats, cost: Floats, budget: float) -> Choice:
    """Return the choice of each linear with the lowest sum of damages, int64 [linears].

    Args:
        damage: damage of each choice, [linears, choices].
        cost: its part of the budget, [linears, choices].

    Raises:
        UserError: no choices fit the budget.
    """
    linears, choices = damage.shape
    one_each = LinearConstraint(np.kron(np.eye(linears), np.ones(choices)), 1, 1)
    within = LinearConstraint(cost.reshape(1, -1), -np.inf, budget + 1e-9)
    ones = np.ones(damage.size)
    found = milp(damage.ravel(), integrality=ones, bounds=Bounds(0, 1), constraints=[one_each, within])
    if found.x is None:
        raise UserError(f"no choices fit {budget:g} bits: raise --bits")
    chosen: Choice = found.x.reshape(damage.shape).argmax(1)
    return chosen


class _Problem:
    """The weights of each linear under each choice, and the model in which they are tried."""

    def __init__(
        self, artifacts: dict[str, Artifact], choices: Sequence[str], tokens: int, note: Callable[[str], None]
    ) -> None:
        self.choices, self._note = choices, note
        builder = Builder(artifacts[CALIBRATED], _Silent())
        calibrated = artifacts[CALIBRATED]
        before = builder.build(calibrated.up_to(len(calibrated.stages) - 1)).folder
        source, compute = Folder(before), builder.workspace.compute
        self.targets = builder.workspace.targets_of(source)
        shapes = [weight_shape(source.config, source.shapes(), target) for target in self.targets]
        sizes = np.array([out * width for out, width in shapes], float)
        self.share: Floats = sizes / sizes.sum()
        """Part of all weights that each linear has."""
        self.bits: Floats = np.array([[_mean_bits(c, width) for c in choices] for _, width in shapes])
        """Bits per weight, [linears, choices]."""
        self._folders = []
        for name in choices:
            note(f"quantizing by {name}")
            self._folders.append(Folder(Builder(artifacts[name], _Silent()).build(artifacts[name]).folder))
        self._model, self._source = loading.load(before, compute), source
        text = builder.workspace.calibration(calibrated).to(compute.device)
        self._text = text[: max(1, tokens // text.shape[1])].split(BATCH)
        self._expected = [self._log_probabilities(part) for part in self._text]

    def measure_damage(self) -> Floats:
        """Return the damage of each choice in each linear alone, [linears, choices]."""
        damage = np.zeros(self.bits.shape)
        self._note(f"measuring {damage.size} damages")
        for i, target in enumerate(self.targets):
            for k, folder in enumerate(self._folders):
                self._set(target, folder)
                damage[i, k] = self._divergence()
            self._set(target, self._source)
        return damage

    def measure(self, chosen: Choice) -> float:
        """Return the KL divergence of the whole model under a choice for each linear."""
        for target, k in zip(self.targets, chosen, strict=True):
            self._set(target, self._folders[k])
        return self._divergence()

    def refine(self, chosen: Choice, damage: Floats, budget: float, swaps: int) -> Choice:
        """Try the pairs of changes with the lowest predicted damage in the whole model, and keep what lowers its own."""
        best, cost, tried = self.measure(chosen), self.bits * self.share[:, None], {tuple(chosen)}
        rows = np.arange(len(chosen))
        for _ in range(swaps):
            spent, moved = cost[rows, chosen].sum(), damage - damage[rows, chosen][:, None]
            extra = cost - cost[rows, chosen][:, None]
            sums = moved.ravel()[:, None] + moved.ravel()
            sums[extra.ravel()[:, None] + extra.ravel() > budget - spent + 1e-9] = np.inf
            candidate = None
            for at in sums.ravel().argsort(kind="stable"):
                (i, k), (j, other) = (divmod(int(n), damage.shape[1]) for n in divmod(int(at), damage.size))
                swapped = chosen.copy()
                swapped[i], swapped[j] = k, other
                if i != j and tuple(swapped) not in tried:
                    candidate = swapped
                    break
            if candidate is None:
                break
            tried.add(tuple(candidate))
            if (measured := self.measure(candidate)) < best:
                best, chosen = measured, candidate
        return chosen

    def describe(self, name: str, chosen: Choice, damage: Floats) -> Share:
        """Return a choice with its bits, and its predicted and measured damage."""
        rows = np.arange(len(chosen))
        return Share(
            name=name,
            linears={target: self.choices[k] for target, k in zip(self.targets, chosen, strict=True)},
            bits=float(self.bits[rows, chosen] @ self.share),
            predicted=float(damage[rows, chosen].sum()),
            measured=self.measure(chosen),
        )

    def _set(self, target: str, folder: Folder) -> None:
        with torch.no_grad():
            dense_weight(self._model.get_submodule(target)).copy_(folder.weight(target))

    @torch.inference_mode()
    def _log_probabilities(self, part: Tensor) -> Tensor:
        logits: Tensor = self._model(input_ids=part, use_cache=False).logits
        return logits.float().log_softmax(-1)

    def _divergence(self) -> float:
        """Return the mean KL divergence from the source's predictions, in nats per token."""
        total = 0.0
        for part, expected in zip(self._text, self._expected, strict=True):
            found = self._log_probabilities(part)
            total += float(nn.functional.kl_div(found, expected, log_target=True, reduction="sum"))
        mean: float = total / sum(part.numel() for part in self._text)
        return mean


def _mean_bits(quantizer: str, width: int) -> float:
    """Return the bits per weight of a row of `width` weights, with scales."""
    bits, scale_bits = bits_of(quantizer, width)
    return bits + scale_bits / width


def to_file(shares: Sequence[Share], budget: float, spec: Spec) -> dict[str, Any]:
    """Return the content of the file that the quantizer `allocated` reads, JSON."""
    best, about = shares[0], {"model": spec.models[0], "method": spec.methods[0], "seed": spec.seeds[0]}
    rounded = {s.name: {k: float(f"{getattr(s, k):.4g}") for k in ("bits", "predicted", "measured")} for s in shares}
    return about | {"budget": budget, "damage": rounded, "linears": best.linears}
