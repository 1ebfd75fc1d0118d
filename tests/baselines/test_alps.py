"""ALPS against its definition, in float64: the paper's support, least squares row by row."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from baselines.alps import Alps, LayerProblem, find_support, make_problem, refine
from helpers.layers import error, first_block, layer
from helpers.models import sample
from helpers.oracles import agree
from methods.contract.pattern import Pattern

pytestmark = pytest.mark.numeric


def exact(x, damping=0.01):
    """Return the problem of inputs x, float64."""
    h = x.double().T @ x.double()
    h = h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    norm = h.diagonal().sqrt()
    h = h / norm / norm[:, None]
    return LayerProblem(norm, h, *torch.linalg.eigh(h))


def naive(start, h, pattern, rho, iterations):
    """Return the support [out, in] and rho. As in the paper: weights are [in, out], V is not
    scaled, (H + rho I)^-1 is explicit.
    """

    def project(w):
        return w * pattern.keep(w.T.abs()).T

    @cache
    def inverse(rho):
        return torch.linalg.inv(h + rho * torch.eye(len(h), dtype=torch.float64))

    dense = start.T
    first = project(dense)
    b, d, v, before, moved = dense, first, torch.zeros_like(dense), first != 0, False
    kept = int(before.sum())
    for t in range(1, iterations + 1):
        b = inverse(rho) @ (h @ dense - v + rho * d)
        d = project(b + v / rho)
        v = v + rho * (b - d)
        if t % 3 == 0:
            changed = int(((d != 0) != before).sum())
            moved = moved or changed > 0.005 * kept
            before = d != 0
            if not moved:
                rho, d, v, before = rho / 5, first, torch.zeros_like(v), first != 0
                if rho < 1e-4:
                    return before.T, rho * 5
            elif changed == 0 or (t > 30 and changed < 0.0003 * kept):
                break
            else:
                rho *= 1.3 if changed > 0.1 * kept else 1.2 if changed > 0.005 * kept else 1.1
    return (d != 0).T, rho


def searched(weight, x, pattern):
    """Return the support and rho of the defaults."""
    at = exact(x)
    return naive(weight.double() * at.norm, at.hessian, pattern, 0.1, 300)


def least_squares(weight, x, keep, damping=0.01):
    """Solve each row of weight [out, in] on its support: ||X (w - w0)||^2 + ridge ||w - w0||^2."""
    x, weight = x.double(), weight.double()
    ridge = damping * x.square().sum(0).mean()
    tall = torch.cat([x, ridge.sqrt() * torch.eye(x.shape[1], dtype=torch.float64)])
    out = torch.zeros_like(weight)
    for i, mask in enumerate(keep):
        out[i, mask] = torch.linalg.lstsq(tall[:, mask], tall @ weight[i]).solution
    return out


def solved(weight, x, pattern, rule=None):
    """Return the pruned weight and its support."""
    rule = rule or Alps()
    at, _ = make_problem(x.T @ x, rule.damping)
    start = weight * at.norm
    found = find_support(start, at, pattern, rule)
    return refine(found.weight, found.keep, start, at.hessian, rule.steps) / at.norm, found


@pytest.mark.parametrize("seed", sample([0, 1], 0))
@pytest.mark.parametrize("text", ["1:4", "4:8", "30%"])
@pytest.mark.parametrize("fields", [{}, {"rho": 30.0}, {"iterations": 7}], ids=str)
def test_support_is_its_definition(text, seed, fields):
    weight, x = (t.double() for t in layer(width=32, seed=seed))
    at, pattern, rule = exact(x), Pattern.parse(text), Alps(**fields)
    got = find_support(weight * at.norm, at, pattern, rule)
    want, rho = naive(weight * at.norm, at.hessian, pattern, rule.rho, rule.iterations)
    assert torch.equal(got.keep, want)
    assert got.rho == pytest.approx(rho)
    assert (got.weight[~got.keep] == 0).all()


def test_weights_are_least_squares_on_the_support():
    """Any support: here magnitude's, and from its plain weights, far from the least."""
    weight, x = layer(out=8, width=32)
    keep = Pattern.parse("50%").keep(weight.abs())
    at, _ = make_problem(x.T @ x, 0.01)
    start = weight * at.norm

    got = refine(start.where(keep, 0), keep, start, at.hessian, steps=40) / at.norm

    torch.testing.assert_close(got.double(), least_squares(weight, x, keep), rtol=0, atol=2e-5)
    assert (got[~keep] == 0).all()


@pytest.mark.parametrize("text", ["2:4", "50%"])
def test_a_rho_that_holds_the_support_falls(text):
    """Under 1000 nothing moves. It is divided by 5 until something does."""
    weight, x = layer(width=32)
    pattern = Pattern.parse(text)
    at, _ = make_problem(x.T @ x, 0.01)
    first = pattern.keep((weight * at.norm).abs())

    got, found = solved(weight, x, pattern, Alps(rho=1000.0))

    assert 1 < found.rho < 100
    assert error(got, weight, x) < error(least_squares(weight, x, first).float(), weight, x)


def test_a_support_that_cannot_move_ends_the_search():
    weight, x = layer(out=4, width=32)
    pattern = Pattern(2, 4)
    weight = weight.where(pattern.keep(weight.abs()), 0)
    got, found = solved(weight, x, pattern)
    assert found.iterations <= 15
    torch.testing.assert_close(got, weight, rtol=0, atol=1e-6)


def test_first_block_of_a_model_is_the_definition(llama, job):
    """Through the walk: on the support it ends with, least squares of the dense block's inputs."""
    dense = first_block(llama, job)
    dense = {name: dense[name] for name in dense if name.endswith(("o_proj", "down_proj"))}

    notes = Alps(steps=80).apply(llama, replace(job, targets=tuple(dense))).notes

    for name, (weight, x) in dense.items():
        got = llama.get_submodule(name).weight
        agree(got, lambda w, x: least_squares(w, x, searched(w, x, job.pattern)[0]), weight, x)
        # noted with six digits; by whole steps, so no rounding turns it where it turns no support
        rho = pytest.approx(searched(weight, x, job.pattern)[1], rel=1e-5)
        assert notes["layers"][name]["rho"] == rho
        assert notes["layers"][name]["error"] <= notes["layers"][name]["error_before"]


def test_inputs_that_do_not_correlate_are_a_problem_too():
    weight, _ = layer(width=32)
    at, _ = make_problem(torch.eye(32), 0.01)
    start = weight * at.norm
    assert torch.equal(at.vectors, torch.eye(32))
    found = find_support(start, at, Pattern(2, 4), Alps())
    got = refine(found.weight, found.keep, start, at.hessian, 10)
    torch.testing.assert_close(got, start.where(found.keep, 0))
