"""ELSA's optimizer against the equations of ADMM, written a step at a time, and against Adam where nothing is pruned."""

import math

import pytest
import torch

from baselines.elsa import ElsaAdam
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


def naive(steps, pattern, lambda_, interval, schedule, projection, total=40):
    """Compute in float64: z and u every `interval` steps, then Adam on the gradient and the pull."""
    out, rng = [p.detach().double() for p in parameters()], torch.Generator().manual_seed(1)
    beta1, beta2 = ADAM["betas"]
    state = [{"u": torch.zeros_like(x), "mu": torch.zeros_like(x), "v": torch.zeros_like(x)} for x in out]
    for t in range(steps):
        for x, s in zip(out, state, strict=True):
            g = torch.randn(x.shape, generator=rng).double()
            if t % interval == 0:
                fisher = s["v"].sqrt() if projection == "momentum" and t else 1.0
                keep = pattern.keep((x + s["u"]).abs() * fisher)
                s["z"] = (x + s["u"]) * keep
                s["u"] = s["u"] + x - s["z"]
            strength = lambda_ * ((1 - math.cos(math.pi * t / total)) / 2 if schedule == "cosine" else 1)
            g = g + strength * (x - s["z"] + s["u"])
            s["mu"] = beta1 * s["mu"] + (1 - beta1) * g
            s["v"] = beta2 * s["v"] + (1 - beta2) * g**2
            step = s["mu"] / (1 - beta1 ** (t + 1)) / ((s["v"] / (1 - beta2 ** (t + 1))).sqrt() + ADAM["eps"])
            x -= ADAM["lr"] * step
    return out


@pytest.mark.numeric
@pytest.mark.parametrize("projection", ["momentum", "identity"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_is_admm(pattern, schedule, projection):
    rule = {"lambda_": 0.5, "interval": 8, "schedule": schedule, "projection": projection}
    params = parameters()

    train(params, elsa(params, pattern, **rule), 30)

    for got, expected in zip(params, naive(30, Pattern.parse(pattern), **rule), strict=True):
        torch.testing.assert_close(got.detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_transposed_weights_are_the_same():
    plain, turned = parameters(), [torch.nn.Parameter(p.detach().T.contiguous()) for p in parameters()]
    one, two = elsa(plain), elsa(turned, transposed=True)
    rng = torch.Generator().manual_seed(1)

    for _ in range(12):
        for p, q in zip(plain, turned, strict=True):
            p.grad = torch.randn(p.shape, generator=rng)
            q.grad = p.grad.T.contiguous()
        one.step()
        two.step()
    one.apply_mask()
    two.apply_mask()

    for p, q in zip(plain, turned, strict=True):
        torch.testing.assert_close(p.detach(), q.detach().T)
        assert p.unflatten(1, (-1, 4)).count_nonzero(-1).eq(2).all()
    assert one.metrics["flips"] == two.metrics["flips"] > 0


def test_weights_that_are_not_sparse_get_plain_adam():
    ours, adams = parameters(), parameters()
    groups = [{"params": ours[:1], "sparse": True}, {"params": ours[1:]}]
    optimizer = ElsaAdam(groups, total=40, pattern=Pattern(2, 4), lambda_=1.0, interval=4, **ADAM)

    train(ours, optimizer, 20)
    train(adams, torch.optim.AdamW(adams, weight_decay=0.0, fused=True, **ADAM), 20)

    assert not torch.equal(ours[0], adams[0])
    assert torch.equal(ours[1], adams[1])
