"""SparseGPT against its definition: an explicit inverse at every column, in float64."""

import copy
from dataclasses import replace

import pytest
import torch

from baselines import sparsegpt
from baselines.alps import Alps
from baselines.sparsegpt import SparseGPT
from bench.inputs import loading
from bench.quantizers.gptq import Int4Gptq
from helpers.layers import check_first_block, layer, pruned
from helpers.models import build, job_for, sample
from helpers.oracles import agree
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.targets import dense_weight
from methods.workshop.pruning import hessian
from methods.workshop.pruning.hessian import add_gram, inverse_factor, symmetric

pytestmark = pytest.mark.numeric


def naive(weight, x, pattern, block=128, damping=0.01):
    """Return the pruned weight [out, in], float64, without Cholesky."""
    w, x = weight.double().clone(), x.double()
    width = w.shape[1]
    h = 2 * x.T @ x / len(x)
    dead = h.diagonal() == 0
    h[dead, dead] = h.diagonal()[~dead].mean()
    w[:, dead] = 0
    h = h + damping * h.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    group = pattern.m or block
    for j in range(width):
        if j % group == 0:
            columns = range(j, min(j + group, width))
            saliency = [w[:, k] ** 2 / torch.linalg.inv(h[k:, k:])[0, 0] for k in columns]
            keep = pattern.keep(torch.stack(saliency, dim=1))
        inverse = torch.linalg.inv(h[j:, j:])
        lost = w[:, j].masked_fill(keep[:, j % group], 0)
        w[:, j:] -= lost[:, None] * inverse[0] / inverse[0, 0]
        w[:, j] = w[:, j].masked_fill(~keep[:, j % group], 0)
    return w


@pytest.mark.parametrize("seed", sample([0, 1], 0))
@pytest.mark.parametrize(
    ("pattern", "block"), [("2:4", 128), ("3:4", 16), ("16:32", 32), ("50%", 128), ("70%", 24)]
)
def test_is_its_definition(pattern, block, seed):
    weight, x = layer(seed=seed)
    pattern = Pattern.parse(pattern)
    agree(pruned(weight, x, pattern, block), lambda w, x: naive(w, x, pattern, block), weight, x)


def test_first_block_of_a_model_is_the_definition(llama, job):
    want = lambda w, x: naive(w, x, job.pattern, block=16)  # noqa: E731
    check_first_block(llama, job, SparseGPT(block=16), want)


def test_damping_grows_tenfold_until_it_helps():
    """Eigenvalues 2.05 and -0.05: 0.01 of the mean diagonal is too little, 0.1 is enough."""
    h = torch.tensor([[1.0, 1.05], [1.05, 1.0]])

    factor, damping = inverse_factor(h, 0.01)

    assert damping == pytest.approx(0.1)
    want = torch.linalg.inv(h.double() + 0.1 * torch.eye(2, dtype=torch.float64))
    # The condition of what is inverted, 2.15 / 0.05, times a rounding.
    off = 43 * torch.finfo(torch.float32).eps
    torch.testing.assert_close((factor.T @ factor).double(), want, rtol=off, atol=0)
    assert inverse_factor(torch.ones(4, 4), 0)[1] > 0
    with pytest.raises(FloatingPointError, match="with any damping"):
        inverse_factor(torch.tensor([[1.0, 9], [9, 1]]), 0.01)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_hessian_that_is_not_finite_raises(bad, llama, job):
    with pytest.raises(FloatingPointError, match="not finite"):
        inverse_factor(torch.tensor([[1.0, bad], [bad, 1]]), 0.01)
    llama.model.layers[1].post_attention_layernorm.weight[0] = bad
    with pytest.raises(FloatingPointError, match="not finite"):
        SparseGPT().apply(llama, job)


@pytest.mark.parametrize(
    ("pattern", "out", "block"), [("50%", 7, 1), ("30%", 1, 1), ("70%", 3, 5), ("99%", 2, 3)]
)
def test_zeros_of_small_blocks_add_up(pattern, out, block):
    """50% of a column of 7 is 3.5; rounded in each of 64 columns, 32 weights would be lost."""
    weight, x = layer(out=out)
    got = pruned(weight, x, pattern := Pattern.parse(pattern), block)
    assert int((got == 0).sum()) == round(weight.numel() * pattern.sparsity)
    assert pattern.violations(got) == 0


def test_shared_inputs_are_factored_once(llama, job, monkeypatch):
    calls = []

    def note(h, damping):
        calls.append(len(h))
        return inverse_factor(h, damping)

    monkeypatch.setattr(sparsegpt, "inverse_factor", note)

    SparseGPT().apply(llama, job)

    assert calls == [32, 32, 32, 64] * 3


@pytest.mark.parametrize("width", [1, 4, 5, 6, 10, 13])
def test_gram_is_the_whole_product(width, monkeypatch):
    monkeypatch.setattr(hessian, "PANEL", 5)
    x, y = torch.randn(9, width), torch.randn(5, width)
    both = torch.cat([x, y]).double()
    got = symmetric(add_gram(y, add_gram(x, None)))
    torch.testing.assert_close(got, (both.T @ both).float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(got, got.T)


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_factor_is_that_of_the_damped_inverse(damping):
    x = torch.randn(100, 20, dtype=torch.float64)
    h = x.T @ x
    before = h.clone()

    factor, took = inverse_factor(h, damping)

    assert took == damping
    assert torch.equal(h, before)
    assert torch.equal(factor, factor.triu())
    want = torch.linalg.inv(h + damping * h.diagonal().mean() * torch.eye(20))
    torch.testing.assert_close(factor.T @ factor, want)


@pytest.mark.parametrize("method", [SparseGPT(), Alps(), Int4Gptq()], ids=lambda one: one.name)
def test_dead_inputs_do_not_tie_the_damping_to_a_unit(method):
    """An MLP's inner units times c, and their readers divided by it, are one function."""
    found = {}
    for c in (1.0, 2.0**-6):
        model = build("llama")
        up, down = model.model.layers[0].mlp.up_proj, model.model.layers[0].mlp.down_proj
        up.weight[:8] = 0
        up.weight.mul_(c)
        down.weight.div_(c)
        method.apply(model, replace(job_for(model), targets=("model.layers.0.mlp.down_proj",)))
        found[c] = dense_weight(down) * c
    assert torch.equal(*found.values())


@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_it_is_sparsegpts_mask_on_dense_weights(pattern, llama, make_job, keep_as, tmp_path):
    """The error is that of the masked weights, so larger than with compensation."""
    source = keep_as(llama, tmp_path / "source")
    dense = loading.load(source, Compute())
    job = make_job(dense, pattern, source=source, workdir=tmp_path / "work")

    methods = (SparseGPT(), SparseGPT(mask_only=True))
    moved, masked = (method.apply(copy.deepcopy(dense), job) for method in methods)

    for name in job.targets:
        models = (dense, moved.model, masked.model)
        was, full, got = (dense_weight(m.get_submodule(name)) for m in models)
        assert torch.equal(got != 0, full != 0), name
        assert torch.equal(got, was.where(full != 0, 0)), name
        assert not torch.equal(got, full)
        assert job.pattern.violations(got) == 0
    for key, tensor in masked.model.state_dict().items():
        if key.removesuffix(".weight") not in job.targets:
            assert torch.equal(tensor, dense.state_dict()[key]), key
    first = job.targets[0]
    assert masked.notes["reconstruction_error"][first] > moved.notes["reconstruction_error"][first]
    assert all(o.notes["reconstruction_inputs"] == "96 calibration tokens" for o in (moved, masked))


def test_a_kept_weight_that_underflows_is_in_the_mask(llama, make_job, keep_as, tmp_path):
    """Use weights near the smallest number of float16, so that compensation makes some smaller."""
    for name in make_job(llama).targets:
        llama.get_submodule(name).weight.mul_(2**-20)
    source, compute = keep_as(llama.half(), tmp_path / "source"), Compute(dtype=torch.float16)
    dense = loading.load(source, compute)
    job = make_job(dense, source=source, compute=compute, workdir=tmp_path / "work")

    got = SparseGPT(mask_only=True).apply(copy.deepcopy(dense), job).model

    for name in job.targets:
        was, weight = (dense_weight(m.get_submodule(name)) for m in (dense, got))
        full, kept = (w.unflatten(1, (-1, 4)).count_nonzero(-1) for w in (was, weight))
        assert (full == 4).any() and (kept[full == 4] == 2).all(), name
