"""GPTQ under a fixed mask against its definition: an explicit inverse of what is left of H at every
column, float64."""

import pytest
import torch

from bench.quantizers import gptq
from bench.quantizers.gptq import Int4Gptq, largest_first, left_to_right, quantize
from helpers.oracles import agree
from methods.contract.pattern import Pattern
from methods.workshop.pruning.hessian import add_gram, symmetric
from methods.workshop.quantizing.grids import Integer, round_

pytestmark = pytest.mark.numeric


def naive(weight, keep, x, group, damping=0.01, act_order=False):
    """The quantized weight [out, in]. No Cholesky, no blocks, one column at a time."""
    w, x = weight.double().clone(), x.double()
    h = 2 * x.T @ x / len(x)
    h = h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    left = list(range(w.shape[1]))
    while left:
        j = max(left, key=lambda j: h[j, j]) if act_order else left[0]
        first = j - j % group
        # The initial weights, or those that are there when the loop reaches the group.
        if act_order or j == first:
            now = weight.double() if act_order else w
            largest = (
                (now[:, first : first + group] * keep[:, first : first + group]).abs().max(1).values
            )
            scale = (largest / 7.5).bfloat16().double()
        q = (w[:, j] / scale).round().clamp(-8, 7) * scale * keep[:, j]
        inverse = torch.linalg.inv(h[left][:, left])
        at = left.index(j)
        w[:, left] -= (w[:, j] - q)[:, None] * inverse[at] / inverse[at, at]
        w[:, j] = q
        left.remove(j)
    return w


def layer(out=16, width=64, tokens=256, seed=0, pattern="2:4"):
    """A pruned weight, what it keeps, and inputs that are correlated and unequally loud."""
    torch.manual_seed(seed)
    mix = torch.eye(width) + torch.randn(width, width) / width**0.5
    weight = torch.randn(out, width) / width**0.5
    keep = Pattern.parse(pattern).keep(weight.abs())
    return weight * keep, keep, torch.randn(tokens, width) @ mix * torch.rand(width).add(0.5)


def quantized(weight, keep, x, group, act_order=False):
    prepare = largest_first if act_order else left_to_right
    return quantize(
        weight, keep, prepare(symmetric(add_gram(x, None)) * 2 / len(x), 0.01)[0], group
    ).values


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("pattern", "group", "width"), [("2:4", 16, 144), ("dense", 64, 64), ("50%", 48, 96)]
)
@pytest.mark.parametrize("act_order", [True, False])
def test_is_its_definition(pattern, group, width, seed, act_order):
    weight, keep, x = layer(width=width, seed=seed, pattern=pattern)

    got = quantized(weight, keep, x, group, act_order)

    agree(got, lambda w, x: naive(w, keep, x, group, act_order=act_order), weight, x, grid=True)


def test_scale_of_a_group_is_that_of_its_kept_weights():
    """The first group's errors move the second's small weights, the masked ones as far as the
    kept."""
    weight, keep, x = layer()
    weight[:, 32:] *= 0.02

    got = quantized(weight, keep, x, 32)

    agree(got, lambda w, x: naive(w, keep, x, 32), weight, x, grid=True)


@pytest.mark.parametrize("act_order", [True, False])
def test_holds_the_mask_and_errs_less_than_remasking_and_than_rounding(act_order):
    weight, keep, x = layer(out=128, width=256, tokens=1024)

    def error(w):
        return float((x @ (w - weight).T).square().sum() / (x @ weight.T).square().sum())

    ours = quantized(weight, keep, x, 128, act_order)
    blind = quantized(weight, torch.ones_like(keep), x, 128, act_order)
    rounded = weight.clone()
    round_(rounded, Integer(4), 128)

    assert Pattern(2, 4).violations(ours) == 0
    assert Pattern(2, 4).violations(blind) > 0
    assert error(ours) < 0.95 * error(blind * keep)
    assert error(blind * keep) < 0.95 * error(rounded)


def test_inputs_that_do_not_correlate_make_it_rounding():
    """H = I: nothing can make up for anything."""
    weight, keep, _ = layer(width=32)
    x = torch.linalg.qr(torch.randn(64, 32))[0] * 32
    rounded = weight.clone()
    round_(rounded, Integer(4), 16)

    torch.testing.assert_close(quantized(weight, keep, x, 16), rounded, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pattern", ["2:4", "dense"])
def test_mask_is_what_its_input_keeps(pattern, llama, make_job):
    """After a dense model there is none, whatever happens to be zero."""
    job = make_job(llama, pattern)
    weight = llama.get_submodule(job.targets[0]).weight
    weight[:, ::2] = 0

    Int4Gptq().apply(llama, job)

    assert weight[:, 1::2].any() and bool(weight[:, ::2].any()) is (pattern == "dense")


@pytest.mark.parametrize("act_order", [True, False])
def test_the_order_is_the_setting(act_order, llama, job, monkeypatch):
    seen = []
    monkeypatch.setattr(gptq, "quantize", lambda *a: (seen.append(a[2].order), quantize(*a))[1])

    Int4Gptq(act_order=act_order).apply(llama, job)

    assert Int4Gptq().act_order and len(seen) == len(job.targets)
    assert all((order is not None) == act_order for order in seen)
