"""ADMM against its definition: the paper's steps in float64, an explicit inverse."""

from itertools import product

import pytest
import torch

from baselines.admm import Admm, solve
from helpers.layers import check_first_block, layer
from helpers.models import sample
from methods.contract.pattern import Pattern

pytestmark = pytest.mark.numeric


def naive(weight, x, pattern, rule):
    """Return the pruned weight [out, in], float64, and its mask. As in the paper, weights are [in,
    out] and inputs have norm 1.
    """
    x = x.double()
    norm = x.norm(dim=0)
    norm[norm == 0] = 1
    x = x / norm
    h = x.T @ x
    dead = h.diagonal() == 0
    dense = (weight.double() * norm).T
    dense[dead] = 0
    h[dead, dead] = 1
    h = h + rule.damping * torch.eye(len(h), dtype=torch.float64)
    inverse = torch.linalg.inv(h + rule.rho * torch.eye(len(h), dtype=torch.float64))
    w, u = dense, torch.zeros_like(dense)
    mask = chosen(w.T, pattern, 1).T
    for t in range(1, rule.iterations + 1):
        if t <= rule.gradual:
            mask = chosen((w + u).T, pattern, t / rule.gradual).T
        z = (w + u) * mask
        u = u + (w - z)
        w = inverse @ (h @ dense + rule.rho * (z - u))
    return ((w + u) * mask).T / norm, mask.T


def chosen(weight, pattern, done):
    """Return the mask without the share s (1 - (1 - t)^3) of the smallest weights. The n largest of
    a group stay."""
    share = 1 - pattern.n / pattern.m if pattern.m else pattern.sparsity
    out, width = weight.shape
    size = weight.abs().tolist()
    safe = set()
    if pattern.m:
        for i in range(out):
            for a in range(0, width, pattern.m):
                group = sorted(range(a, a + pattern.m), key=lambda j: -size[i][j])
                safe.update((i, j) for j in group[: pattern.n])
    order = [place for place in product(range(out), range(width)) if place not in safe]
    order.sort(key=lambda place: size[place[0]][place[1]])
    total = out * width * share
    pruned = set(order[: round(total) if done == 1 else int(total * (1 - (1 - done) ** 3))])
    return torch.tensor([[(i, j) not in pruned for j in range(width)] for i in range(out)])


def solved(weight, x, pattern, rule=None):
    """Solve a layer. Return the weight in its original units, and the solution."""
    rule = rule or Admm()
    problem, _ = rule.problem(x.T @ x, rule.damping)
    got = solve(weight * problem.norm, problem, pattern, rule)
    return got.weight / problem.norm, got


@pytest.mark.parametrize("seed", sample([0, 1], 0))
@pytest.mark.parametrize("text", ["1:4", "4:8", "30%"])
@pytest.mark.parametrize(
    "fields", [{}, {"gradual": 0}, {"iterations": 3, "gradual": 3, "rho": 0.3, "damping": 0.02}]
)
def test_is_its_definition(text, seed, fields):
    weight, x = (t.double() for t in layer(out=12, width=32, seed=seed))
    pattern, rule = Pattern.parse(text), Admm(**fields)
    got, all_ = solved(weight, x, pattern, rule)
    want, mask = naive(weight, x, pattern, rule)
    assert torch.equal(all_.keep, mask)
    torch.testing.assert_close(got, want)


def test_first_block_of_a_model_is_the_definition(llama, job):
    check_first_block(llama, job, Admm(), lambda w, x: naive(w, x, job.pattern, Admm())[0])


def test_diary(llama, job):
    notes = Admm(damping=0.0).apply(llama, job).notes
    for name in job.targets:
        peak, last = notes["residual"][name]
        assert 0 < last < peak < 1
        error = notes["reconstruction_error"][name]
        assert notes["layer_error"][name] == pytest.approx(error, rel=1e-3)
