"""ProxSparse: its prox against brute force, and what comes out of a training."""

import copy
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from baselines.proxsparse import Proximal, ProxSparse, elementary_symmetric, prox
from helpers.models import sample
from helpers.trainings import LAST_DIGIT, weight_of
from methods.contract.pattern import Pattern


def objective(w, z, strength, n):
    """||w - z||^2 / 2 + strength * sum of |products| of n + 1, in float64. w: [..., m]"""
    total = ((w - z) ** 2).sum(-1) / 2
    for chosen in combinations(range(z.shape[-1]), n + 1):
        total = total + strength * np.abs(np.prod(w[..., list(chosen)], axis=-1))
    return total


@pytest.mark.numeric
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 6)])
@pytest.mark.parametrize("strength", sample([0.03, 0.3, 1.0], 0.3))
def test_no_descent_from_anywhere_ends_lower(n, m, strength):
    """Coordinate by coordinate, each set to its minimum given the rest, from many starts."""
    z = torch.randn(6, m, dtype=torch.float64)
    w = prox(z, strength, n)
    rng = np.random.default_rng(0)

    size = z.abs().numpy()
    found = rng.uniform(size=(10, *size.shape)) * size
    for _ in range(60):
        for i in range(m):
            others = np.delete(found, i, axis=-1)
            choices = combinations(range(m - 1), n)
            slope = sum(np.prod(others[..., list(c)], axis=-1) for c in choices)
            found[..., i] = np.maximum(0, size[:, i] - strength * slope)
    best = objective(found, size, strength, n).min(0)
    assert (objective(w.abs().numpy(), size, strength, n) <= best + 1e-8).all()


@pytest.mark.numeric
def test_elementary_is_the_sum_over_all_choices():
    x = torch.randn(5, 7, dtype=torch.float64)
    for k in range(9):
        products = [x[:, list(c)].prod(-1) for c in combinations(range(7), k)]
        naive = sum(products, torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(elementary_symmetric(x, k), naive)


@pytest.mark.numeric
def test_prox_of_nothing_is_nothing_of_all_the_projection_and_knows_neither_signs_nor_places():
    z = torch.randn(40, 4, dtype=torch.float64)
    kept = z.masked_fill(~Pattern(2, 4).keep(z.abs()), 0)
    w = prox(z, 0.4, 2)

    assert torch.equal(prox(z, 0.0, 2), z)
    assert torch.equal(prox(z, 1e6, 2), kept)
    assert torch.equal(prox(kept, 0.7, 2), kept)
    assert (w * z >= 0).all()
    for order in ((3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 1, 0)):
        torch.testing.assert_close(prox(z[:, order], 0.4, 2), w[:, order])


@pytest.mark.numeric
def test_each_step_is_adams_and_then_the_prox():
    weight, slope = torch.randn(6, 8), torch.randn(6, 8)
    ours, theirs = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(weight.clone())
    ours.grad, theirs.grad = slope.clone(), slope.clone()
    optimizer = Proximal([ours], Pattern(2, 4), 0.2, lr=0.05)
    optimizer.step()
    torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.0).step()

    expected = prox(theirs.detach().view(-1, 4), 0.2, 2).view(6, 8)
    torch.testing.assert_close(ours.detach(), expected)
    held = expected.view(-1, 4).count_nonzero(-1) <= 2
    assert optimizer.metrics["held"] == held.double().mean().item()


def test_all_at_once_and_no_learning_is_magnitude(llama, task):
    model, job = llama, task(llama, steps=2)
    outcome = ProxSparse(lr=0.0, lambda_=1e9).apply(copy.deepcopy(model), job)
    assert outcome.notes["held"] == 1
    for target in job.targets:
        before = weight_of(model, target)
        expected = before.masked_fill(~job.pattern.keep(before.abs()), 0)
        assert torch.equal(weight_of(outcome.model, target), expected)


def test_weights_that_stay_are_those_it_started_from(llama, task):
    model, job = llama, task(llama, steps=8)
    job = replace(job, targets=job.targets[-4:])

    outcome = ProxSparse(lr=3e-3, lambda_=0.05).apply(copy.deepcopy(model), job)

    moved = 0
    for name, parameter in model.named_parameters():
        after = outcome.model.get_parameter(name)
        if name.removesuffix(".weight") in job.targets:
            assert torch.equal(after[after != 0], parameter[after != 0])
            target = name.removesuffix(".weight")
            keep = job.pattern.keep(weight_of(model, target).abs())
            moved += int(((weight_of(outcome.model, target) != 0) != keep).sum())
        else:
            assert torch.equal(after, parameter)
    assert moved > 0
    assert outcome.changed == frozenset()


GOLDEN = {
    "ce": [
        4.17878, 4.12901, 4.02984, 4.05514, 3.96992, 3.94706, 3.98198, 3.88886, 3.8827, 3.85898,
        3.87661, 3.78753,
    ],
    "norm": [
        1.17905, 1.28544, 1.10633, 1.15296, 1.10923, 1.3341, 1.33773, 1.37043, 1.33225, 1.48797,
        1.35301, 1.85371,
    ],
    "held": [
        0.00072338, 0.00303819, 0.00607639, 0.0115741, 0.0189525, 0.0276331, 0.0392072, 0.0509259,
        0.0662616, 0.0804398, 0.0973669, 0.116319,
    ],
}  # fmt: skip


@pytest.mark.numeric
@pytest.mark.parametrize("moved", sample([0.0, 1e-10], 0.0))
def test_golden_trace(moved, make_exact, task):
    """Twelve steps, number by number; written by this code on 2026-11-25, so a change of arithmetic
    is meant.

    In float64, on any processor: a start moved by a million roundings turns no group and no digit
    but the last of six.
    """
    model = make_exact("llama", moved)

    job = task(model, steps=12, budget={"log_every": 1})

    notes = ProxSparse(lr=3e-3, lambda_=0.3).apply(model, job).notes

    for name, golden in GOLDEN.items():
        assert [r[name] for r in notes["curve"]] == pytest.approx(golden, rel=LAST_DIGIT), name
    assert math.isfinite(notes["validation_perplexity"]["before_projection"])
