"""ELSA's optimizer against the equations of ADMM, written a step at a time, and against Adam where nothing is pruned."""

import math
from itertools import pairwise

import pytest
import torch

from baselines.elsa import ElsaAdam
from bench.catalog.choice import build
from bench.catalog.entries import METHODS
from methods.pattern import Pattern

ADAM = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}
SHAPES = [(8, 16), (4, 12)]


def parameters():
    rng = torch.Generator().manual_seed(4)
    return [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in SHAPES]


def train(params, optimizer, steps, seed=1):
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=rng)
        optimizer.step()
    return params


def elsa(params, pattern="2:4", transposed=False, **options):
    options = {"total": 40, "lambda_": 0.5, "interval": 8} | options
    groups = [{"params": params, "sparse": True, "transposed": transposed}]
    return ElsaAdam(groups, pattern=Pattern.parse(pattern), **ADAM, **options)


def naive(params, gradient, steps, lambda_, interval, schedule, projection, total=40, keep=None):
    """Train in float64 by ADMM in its unscaled form, in which y = lambda u has no scale to correct.

    gradient: returns the gradients of the loss at a step. keep: mask of a matrix of sizes. Default: 2:4, by topk.
    """
    keep = keep or (
        lambda size: (
            torch.zeros_like(size)
            .unflatten(-1, (-1, 4))
            .scatter_(-1, size.unflatten(-1, (-1, 4)).topk(2).indices, 1)
            .flatten(-2)
        )
    )
    beta1, beta2 = ADAM["betas"]
    y, mu, v, z = ([torch.zeros_like(x) for x in params] for _ in range(4))
    for t in range(steps):
        strength = lambda_ * ((1 - math.cos(math.pi * t / total)) / 2 if schedule == "cosine" else 1)
        for i, (x, g) in enumerate(zip(params, gradient(t), strict=True)):
            if t % interval == 0:
                pushed = x + (y[i] / strength if t and strength else 0)
                fisher = v[i].sqrt() if projection == "momentum" and t else 1.0
                z[i] = pushed * keep(pushed.abs() * fisher)
                y[i] = y[i] + strength * (x - z[i])
            g = g + strength * (x - z[i]) + y[i]
            mu[i] = beta1 * mu[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            step = mu[i] / (1 - beta1 ** (t + 1)) / ((v[i] / (1 - beta2 ** (t + 1))).sqrt() + ADAM["eps"])
            x -= ADAM["lr"] * step
    return params


@pytest.mark.numeric
@pytest.mark.parametrize("projection", ["momentum", "identity"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_is_admm(pattern, schedule, projection):
    rule = {"lambda_": 0.5, "interval": 8, "schedule": schedule, "projection": projection}
    params, rng = parameters(), torch.Generator().manual_seed(1)
    expected = [p.detach().double() for p in parameters()]

    def noise(t):
        return [torch.randn(x.shape, generator=rng).double() for x in expected]

    train(params, elsa(params, pattern, **rule), 30)
    naive(expected, noise, 30, keep=Pattern.parse(pattern).keep, **rule)

    for got, wanted in zip(params, expected, strict=True):
        torch.testing.assert_close(got.detach().double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_ten_steps_on_a_loss_equal_plain_torch(schedule):
    """A small network in float64. lambda grows at each step of the cosine, and three projections fall into the ten."""
    inputs, goals = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    goals = goals.roll(1, -1)
    rule = {"lambda_": 0.5, "interval": 4, "schedule": schedule, "projection": "momentum", "total": 10}

    def loss(one, two):
        return ((inputs @ one.T).tanh() @ two.T - goals).square().mean()

    def start():
        rng = torch.Generator().manual_seed(3)
        return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((16, 8), (8, 16))]

    expected = start()

    def gradient(t):
        leaves = [x.clone().requires_grad_() for x in expected]
        return torch.autograd.grad(loss(*leaves), leaves)

    naive(expected, gradient, 10, **rule)
    params = [torch.nn.Parameter(x) for x in start()]
    optimizer = elsa(params, **rule)
    for _ in range(10):
        optimizer.zero_grad()
        loss(*params).backward()
        optimizer.step()

    for got, wanted in zip(params, expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-9, atol=1e-12)


def test_released_has_the_defaults_of_the_released_code():
    released = METHODS["elsa"].presets["released"]
    settings = build(METHODS["elsa"], "elsa:released", released)

    assert (settings.lr, settings.beta1, settings.beta2, settings.lambda_) == (2e-4, 0.9, 0.95, 0.01)
    assert (settings.schedule, settings.interval, settings.projection) == ("constant", 2, "identity")
    assert (settings.warmup, settings.grad_clip, settings.eta) == (0, 1, 0)


def test_transposed_weights_are_the_same():
    plain, turned = parameters(), [torch.nn.Parameter(p.detach().T.contiguous()) for p in parameters()]
    one, two = elsa(plain, interval=4), elsa(turned, transposed=True, interval=4)
    rng = torch.Generator().manual_seed(1)
    patterns = []

    for _ in range(12):
        for p, q in zip(plain, turned, strict=True):
            p.grad = torch.randn(p.shape, generator=rng)
            q.grad = p.grad.T.contiguous()
        one.step()
        two.step()
        patterns.append(torch.cat([(one.state[p]["split"] != 0).flatten() for p in plain]))
    one.apply_mask()
    two.apply_mask()

    for p, q in zip(plain, turned, strict=True):
        torch.testing.assert_close(p.detach(), q.detach().T)
        assert p.unflatten(1, (-1, 4)).count_nonzero(-1).eq(2).all()
    flips = sum(float((a != b).float().mean()) for a, b in pairwise(patterns))
    assert one.metrics["flipped"] == two.metrics["flipped"] == pytest.approx(flips) and flips > 0


def test_weights_that_are_not_sparse_get_plain_adam():
    ours, adams = parameters(), parameters()
    groups = [{"params": ours[:1], "sparse": True}, {"params": ours[1:]}]
    optimizer = ElsaAdam(groups, total=40, pattern=Pattern(2, 4), lambda_=1.0, interval=4, **ADAM)

    train(ours, optimizer, 20)
    train(adams, torch.optim.AdamW(adams, weight_decay=0.0, fused=True, **ADAM), 20)

    assert not torch.equal(ours[0], adams[0])
    assert torch.equal(ours[1], adams[1])
