"""Products in bfloat16 through float32."""

import copy

import pytest
import torch
from torch import nn

from bench.execution import job
from bench.system import products
from helpers import runs


@pytest.fixture
def slow_cpu(monkeypatch):
    monkeypatch.setattr(products, "has_instructions_for", lambda dtype: dtype == "float32")
    yield
    products.use_float32(wanted=False)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step(linear, x):
    """Return the output of a linear, and its gradients for a loss that is not linear."""
    out = linear(x)
    (out.float() ** 2).sum().backward()
    return out, x.grad, *(p.grad for p in linear.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_each_product_is_the_one_in_float32_rounded_once(bias, slow_cpu):
    linear = nn.Linear(48, 40, bias=bias).bfloat16()
    x = numbers(3, 20, 48).bfloat16()
    exact = copy.deepcopy(linear).float()(x.float())
    products.use_float32(wanted=True)
    assert torch.equal(linear(x), exact.bfloat16())
    assert torch.equal(torch.bmm(x, x.mT), torch.bmm(x.float(), x.float().mT).bfloat16())


@pytest.mark.parametrize("bias", [True, False])
def test_a_training_step_is_torchs_own_within_roundings(bias, slow_cpu):
    linear = nn.Linear(48, 40, bias=bias).bfloat16()
    own = step(copy.deepcopy(linear), numbers(3, 20, 48).bfloat16().requires_grad_())
    products.use_float32(wanted=True)
    found = step(linear, numbers(3, 20, 48).bfloat16().requires_grad_())
    for ours, theirs in zip(found, own, strict=True):
        assert ours.dtype is torch.bfloat16
        largest = theirs.float().abs().max()
        # One rounding of the largest.
        assert (ours.float() - theirs.float()).abs().max() <= 2**-7 * largest


@pytest.mark.parametrize("mask", [None, numbers(20, 20).bfloat16()])
def test_the_gradients_of_attention_are_those_in_float32_rounded_once(mask, slow_cpu):
    q, k, v, g = (numbers(2, 4, 20, 16, seed=i).bfloat16().requires_grad_(i < 3) for i in range(4))
    options = {"is_causal": mask is None, "attn_mask": mask}
    out = nn.functional.scaled_dot_product_attention(q, k, v, **options)
    _, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, **options)
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    in_float32 = [t.detach().float() for t in (g, q, k, v, out)]
    masked = {"attn_mask": None if mask is None else mask.float()}
    exact = backward(*in_float32, logsumexp.detach(), 0.0, mask is None, **masked)

    products.use_float32(wanted=True)
    out.backward(g)

    for ours, theirs in zip((q.grad, k.grad, v.grad), exact, strict=True):
        assert torch.equal(ours, theirs.bfloat16())


def test_products_in_float32_stay_torchs_own(slow_cpu):
    x, w = numbers(64, 96), numbers(96, 32, seed=1)
    own = x @ w
    products.use_float32(wanted=True)
    assert torch.equal(x @ w, own)


def test_torchs_own_kernels_come_back_and_a_fast_cpu_keeps_them(slow_cpu, monkeypatch):
    products.use_float32(wanted=True)
    products.use_float32(wanted=True)
    assert len(products._installed) == 1
    products.use_float32(wanted=False)
    assert not products._installed
    monkeypatch.setattr(products, "has_instructions_for", lambda dtype: True)
    products.use_float32(wanted=True)
    assert not products._installed


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_chooses_by_its_number_format(dtype, tmp_path, cache, slow_cpu, monkeypatch):
    chosen = []
    monkeypatch.setattr(job, "use_float32", lambda wanted: chosen.append(wanted))
    runs.run_here(runs.small(tmp_path / "r", measures=("perplexity",), dtype=dtype))
    assert set(chosen) == {dtype == "bfloat16"}
    assert len(chosen) >= 3  # the dense model, a pruned one, and each again before it is measured
