"""ELSA's optimizer against the equations of ADMM, and against Adam where nothing is pruned."""

import math
from itertools import pairwise

import pytest
import torch

from baselines.elsa import ElsaAdam
from bench.catalog.choice import build
from bench.catalog.entries import METHODS
from helpers.trainings import parameters, train
from methods.contract.pattern import Pattern

ADAM = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}
SHAPES = [(8, 16), (4, 12)]


def elsa(params, pattern="2:4", **options):
    options = {"total": 40, "lambda_": 0.5, "interval": 8} | options
    return ElsaAdam(
        [{"params": params, "sparse": True}], pattern=Pattern.parse(pattern), **ADAM, **options
    )


def naive(params, steps, keep, lambda_, interval, schedule, projection, total=40, seed=1):
    """Train by ADMM in its unscaled form, y = lambda u, with the gradients of `train`."""
    rng = torch.Generator().manual_seed(seed)
    beta1, beta2 = ADAM["betas"]
    y, mu, v, z = ([torch.zeros_like(x) for x in params] for _ in range(4))
    for t in range(steps):
        grown = (1 - math.cos(math.pi * t / total)) / 2
        strength = lambda_ * (grown if schedule == "cosine" else 1)
        for i, x in enumerate(params):
            if t % interval == 0:
                pushed = x + (y[i] / strength if t and strength else 0)
                fisher = v[i].sqrt() if projection == "momentum" and t else 1.0
                z[i] = pushed * keep(pushed.abs() * fisher)
                y[i] = y[i] + strength * (x - z[i])
            g = torch.randn(x.shape, generator=rng).to(x) + strength * (x - z[i]) + y[i]
            mu[i] = beta1 * mu[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            below = (v[i] / (1 - beta2 ** (t + 1))).sqrt() + ADAM["eps"]
            x -= ADAM["lr"] * mu[i] / (1 - beta1 ** (t + 1)) / below
    return params


@pytest.mark.numeric
@pytest.mark.parametrize("projection", ["momentum", "identity"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_is_admm(pattern, schedule, projection):
    """lambda grows at each step of the cosine, and four projections fall into the thirty."""
    rule = {"lambda_": 0.5, "interval": 8, "schedule": schedule, "projection": projection}
    params = [p.detach() for p in parameters(SHAPES)]
    expected = [p.double() for p in params]
    exact = [x.clone() for x in expected]

    for trained in (params, exact):
        train(trained, elsa(trained, pattern, **rule), 30)
    naive(expected, 30, Pattern.parse(pattern).keep, **rule)

    for got, in_float64, wanted in zip(params, exact, expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(in_float64, wanted, rtol=1e-9, atol=1e-12)


def test_released_has_the_defaults_of_the_released_code():
    released = METHODS["elsa"].presets["released"]
    settings = build(METHODS["elsa"], "elsa:released", released)
    numbers = {"lr": 2e-4, "beta1": 0.9, "beta2": 0.95, "lambda_": 0.01, "interval": 2}
    rules = {"schedule": "constant", "projection": "identity"}
    wanted = numbers | rules | {"warmup": 0, "grad_clip": 1, "eta": 0}
    assert {name: getattr(settings, name) for name in wanted} == wanted


def test_the_pattern_holds_at_the_end_and_its_changes_are_counted():
    params = parameters(SHAPES)
    optimizer = elsa(params, interval=4)
    patterns = []

    for seed in range(12):
        train(params, optimizer, 1, seed)
        patterns.append(torch.cat([(optimizer.state[p]["split"] != 0).flatten() for p in params]))
    optimizer.apply_mask()

    for p in params:
        assert p.unflatten(1, (-1, 4)).count_nonzero(-1).eq(2).all()
    flips = sum(float((a != b).float().mean()) for a, b in pairwise(patterns))
    assert optimizer.metrics["flipped"] == pytest.approx(flips) and flips > 0


def test_weights_that_are_not_sparse_get_plain_adam():
    ours, adams = parameters(SHAPES), parameters(SHAPES)
    groups = [{"params": ours[:1], "sparse": True}, {"params": ours[1:]}]
    optimizer = ElsaAdam(groups, total=40, pattern=Pattern(2, 4), lambda_=1.0, interval=4, **ADAM)
    train(ours, optimizer, 20)
    train(adams, torch.optim.AdamW(adams, weight_decay=0.0, fused=True, **ADAM), 20)
    assert not torch.equal(ours[0], adams[0])
    assert torch.equal(ours[1], adams[1])
