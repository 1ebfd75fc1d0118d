"""ADMM against its definition: the paper's steps in float64, an explicit inverse, masks by sorting."""

import copy
from itertools import pairwise

import pytest
import torch

from baselines.admm import Admm, Problem, solve
from helpers.layers import error, first_block, layer, pruned
from helpers.oracles import agree
from methods.pattern import Pattern

pytestmark = pytest.mark.numeric

PATTERNS = ["2:4", "1:4", "4:8", "2:8", "50%"]


def naive(weight, x, pattern, rule):
    """The pruned weight [out, in], float64, and its mask. As in the paper, weights are [in, out] and inputs have norm 1."""
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
    """The share s (1 - (1 - t)^3) of all weights goes, the least first, but none of the n largest of a group."""
    share = 1 - pattern.n / pattern.m if pattern.m else pattern.sparsity
    out, width = weight.shape
    size = weight.abs().tolist()
    safe = set()
    if pattern.m:
        for i in range(out):
            for a in range(0, width, pattern.m):
                safe.update((i, j) for j in sorted(range(a, a + pattern.m), key=lambda j: -size[i][j])[: pattern.n])
    order = sorted(
        ((i, j) for i in range(out) for j in range(width) if (i, j) not in safe), key=lambda p: size[p[0]][p[1]]
    )
    mask = torch.ones(out, width, dtype=torch.bool)
    total = out * width * share
    for i, j in order[: round(total) if done == 1 else int(total * (1 - (1 - done) ** 3))]:
        mask[i, j] = False
    return mask


def solved(weight, x, pattern, rule=None):
    """What `settle` makes of a layer, in the layer's units; and all that it returned."""
    rule = rule or Admm()
    problem, _ = rule.problem(x.T @ x, rule.damping)
    got = solve(weight * problem.norm, problem, pattern, rule)
    return got.weight / problem.norm, got


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("text", [*PATTERNS, "30%"])
@pytest.mark.parametrize(
    "fields", [{}, {"gradual": 0}, {"iterations": 3, "gradual": 3, "rho": 0.3, "damping": 0.02}], ids=str
)
def test_is_its_definition(text, seed, fields):
    weight, x = (t.double() for t in layer(out=12, width=32, seed=seed))
    pattern, rule = Pattern.parse(text), Admm(**fields)

    got, all_ = solved(weight, x, pattern, rule)

    want, mask = naive(weight, x, pattern, rule)
    assert torch.equal(all_.keep, mask)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_first_block_of_a_model_is_the_definition(pattern, llama, make_job):
    """Through the walk, with two dead inputs."""
    llama.model.layers[0].input_layernorm.weight[[3, 17]] = 0
    job = make_job(llama, pattern)
    dense = first_block(llama, job)

    Admm().apply(llama, job)

    for name, (weight, x) in dense.items():
        agree(llama.get_submodule(name).weight, lambda w, x: naive(w, x, job.pattern, Admm())[0], weight, x)


@pytest.mark.parametrize("text", PATTERNS)
def test_residual_falls_once_the_mask_is_held(text):
    weight, x = layer()

    _, held = solved(weight, x, Pattern.parse(text), Admm(gradual=0))
    _, grown = solved(weight, x, Pattern.parse(text))

    for residuals in (held.residuals, grown.residuals[14:]):
        assert all(a > b for a, b in pairwise(residuals))
    assert held.residuals[-1] < 0.1 * held.residuals[0]
    assert grown.residuals[-1] < 0.5 * max(grown.residuals)


@pytest.mark.parametrize("text", PATTERNS)
def test_held_to_the_end_it_is_least_squares_on_the_mask(text):
    """Row by row: the normal equations of the weights that are kept, H damped in the problem's units."""
    weight, x = (t.double() for t in layer(out=8, width=32))
    rule = Admm(iterations=400, gradual=0)
    problem, _ = rule.problem(x.T @ x, rule.damping)
    start = weight * problem.norm

    got = solve(start, problem, Pattern.parse(text), rule)

    for w, w0, keep in zip(got.weight, start, got.keep, strict=True):
        h = problem.hessian[keep]
        torch.testing.assert_close(w[keep], torch.linalg.solve(h[:, keep], h @ w0))
        assert (w[~keep] == 0).all()


@pytest.mark.parametrize("text", PATTERNS)
def test_makes_up_for_more_than_those_before_it(text):
    """Than magnitude, Wanda, SparseGPT, its own mask on plain weights, and its own update on a mask held from the start."""
    weight, x = layer()
    pattern = Pattern.parse(text)

    got, all_ = solved(weight, x, pattern)
    masks = {
        "magnitude": pattern.keep(weight.abs()),
        "wanda": pattern.keep(weight.abs() * x.norm(dim=0), per="row"),
        "its own": all_.keep,
    }
    others = {name: weight * mask for name, mask in masks.items()}
    others |= {"sparsegpt": pruned(weight, x, pattern), "held": solved(weight, x, pattern, Admm(gradual=0))[0]}

    assert torch.equal(got != 0, all_.keep)
    assert pattern.violations(got) == 0
    for name, other in others.items():
        assert error(got, weight, x) < error(other, weight, x), name


def test_inputs_that_do_not_correlate_make_it_magnitude():
    """H = I: nothing can make up for anything."""
    weight, _ = layer(width=32)
    x = torch.linalg.qr(torch.randn(64, 32))[0]

    for text in PATTERNS:
        pattern = Pattern.parse(text)
        got, _ = solved(weight, x, pattern, Admm(gradual=0))
        torch.testing.assert_close(got, weight * pattern.keep(weight.abs()), rtol=0, atol=1e-5)


def test_dense_is_left_alone(llama, make_job):
    before = copy.deepcopy(llama.state_dict())

    after = Admm().apply(llama, make_job(llama, "dense")).model.state_dict()

    assert all(torch.equal(after[k], before[k]) for k in before)


def test_dead_inputs_lose_their_weights(llama, job):
    llama.model.layers[1].input_layernorm.weight[[2, 9, 10, 11]] = 0

    Admm().apply(llama, job)

    for x in "qkv":
        weight = getattr(llama.model.layers[1].self_attn, f"{x}_proj").weight
        assert (weight[:, [2, 9, 10, 11]] == 0).all()
        assert (weight[:, 0:4].count_nonzero(-1) == 2).all()
        assert (weight[:, 8] != 0).all()


def test_louder_inputs_change_nothing_and_larger_weights_scale(llama, job):
    """By powers of two, so to the bit."""
    louder, larger = copy.deepcopy(llama), copy.deepcopy(llama)
    louder.model.layers[0].input_layernorm.weight *= 4
    larger.model.layers[0].self_attn.q_proj.weight *= 2

    plain, loud, large = (Admm().apply(m, job).model.model.layers[0].self_attn for m in (llama, louder, larger))

    assert torch.equal(loud.q_proj.weight, plain.q_proj.weight)
    assert torch.equal(loud.k_proj.weight, plain.k_proj.weight)
    assert torch.equal(large.q_proj.weight, 2 * plain.q_proj.weight)


def test_damping_grows_and_is_noted(llama, make_job):
    """8 tokens cannot make a 32 x 32 Hessian definite."""
    job = make_job(llama, calibration=torch.arange(8)[None])
    fine = Admm().apply(copy.deepcopy(llama), job)

    starved = Admm(damping=0).apply(llama, job)

    assert "damping_raised" not in fine.notes
    assert "model.layers.0.self_attn.k_proj" in starved.notes["damping_raised"]
    assert all(parameter.isfinite().all() for parameter in llama.parameters())


def test_diary(llama, job):
    """The layer's error is that of all calibration tokens, its Hessian damped; the walk's, of a sample, is close to it."""
    notes = Admm(damping=0.0).apply(llama, job).notes

    for name in job.targets:
        peak, last = notes["residual"][name]
        assert 0 < last < peak < 1
        assert notes["layer_error"][name] == pytest.approx(notes["reconstruction_error"][name], rel=1e-3)


def test_problem_is_scaled_and_damped():
    _, x = layer(width=16)
    got, took = Admm(rho=0.5).problem((x.T @ x).double(), 0.2)

    assert isinstance(got, Problem)
    assert took == 0.2
    torch.testing.assert_close(got.hessian.diagonal(), torch.full((16,), 1.2, dtype=torch.float64))
    torch.testing.assert_close(got.inverse, torch.linalg.inv(got.hessian + 0.5 * torch.eye(16)))
