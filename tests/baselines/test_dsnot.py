"""DSnoT against its definition, row by row and swap by swap in float64."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from baselines.dsnot import DSnoT, InputStatistics, moments, swap_weights
from helpers.layers import first_block
from helpers.models import sample
from helpers.oracles import agree
from methods.contract.method import Prior
from methods.contract.pattern import Pattern
from methods.model.targets import dense_weight

pytestmark = pytest.mark.numeric

PATTERNS = ["2:4", "1:4", "50%"]


def naive(weight, keep, x, seqlen, pattern, rule):
    """Return the refined mask. Check every candidate for every swap."""
    x = x.double()
    sum_ = x.sum(0) / (len(x) / seqlen)
    variance, norm = x.var(0, unbiased=False), x.norm(dim=0)
    out = keep.clone()
    for i, row in enumerate(weight.double()):
        share, size = (row * sum_).tolist(), (row.abs() * norm).tolist()
        worth = (row * sum_ / variance**rule.power).tolist()
        masked = [j for j in range(len(row)) if not keep[i, j]]
        kept = [j for j in range(len(row)) if keep[i, j]]
        error = sum(share[j] for j in masked)
        for _ in range(rule.cycles):
            coming = [j for j in masked if share[j] * error > 0]
            if abs(error) <= rule.threshold or not coming:
                break
            new = max(coming, key=lambda j: (abs(worth[j]), -j))
            if pattern.m:
                going = [j for j in kept if j // pattern.m == new // pattern.m]
            else:
                going = [j for j in kept if share[j] * error < 0]
            if not going:
                break
            old = min(going, key=lambda j: (size[j], j))
            after = error - share[new] + share[old]
            if abs(after) >= abs(error):
                break
            masked.remove(new)
            kept.remove(old)
            out[i, new], out[i, old] = True, False
            error = after
    return out


def masked(keep, pattern, rule, seqlen, weight, x):
    """Return the weight under the refined mask."""
    return weight.double().where(naive(weight, keep, x, seqlen, pattern, rule), 0)


def layer(out=32, width=64, tokens=256, seed=0):
    """Return a weight, and inputs with unequal norms and means."""
    torch.manual_seed(seed)
    x = (torch.randn(tokens, width) + torch.randn(width)) * torch.rand(width).add(0.2)
    return torch.randn(out, width) / width**0.5, x


def refined(weight, x, pattern, rule=None, seqlen=64):
    per = {} if pattern.m else {"per": "row"}
    keep = pattern.keep(weight.abs() * x.norm(dim=0), **per)
    inputs = InputStatistics.of(moments(x, None), len(x) // seqlen, seqlen)
    return keep, swap_weights(weight, keep, inputs, pattern, rule or DSnoT())


@pytest.mark.parametrize("seed", sample([0, 1], 0))
@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("fields", [{}, {"cycles": 3}, {"power": 0.0}, {"threshold": 5.0}], ids=str)
def test_is_its_definition(text, seed, fields):
    weight, x = layer(seed=seed)
    pattern, rule = Pattern.parse(text), DSnoT(**fields)
    keep, got = refined(weight, x, pattern, rule)
    agree(weight.where(got.keep, 0), partial(masked, keep, pattern, rule, 64), weight, x)
    assert got.swaps == int((got.keep & ~keep).sum()) > 0


@pytest.mark.parametrize("text", ["2:4", "50%"])
def test_never_raises_its_own_error(text):
    weight, x = layer()
    mean = x.double().sum(0) / (len(x) / 64)

    keep, got = refined(weight, x, Pattern.parse(text))

    for mask, reported in ((keep, got.before), (got.keep, got.after)):
        torch.testing.assert_close((weight * mean * ~mask).sum(1), reported, rtol=1e-4, atol=1e-4)
    assert (got.after.abs() <= got.before.abs()).all()
    moved = (got.keep != keep).any(1)
    assert (got.after.abs() < got.before.abs())[moved].all()
    assert torch.equal(got.after[~moved], got.before[~moved])


@pytest.mark.parametrize(("variance", "comes"), [(0.0, 2), (1.0, 3)])
def test_a_constant_input_is_worth_most(variance, comes):
    """Compute by hand: e is 0.3 + 1.25, and the first weight, -0.5 of e, is pruned."""
    mean, variances = torch.tensor([[-1.0, 1, 1, 5], [1, 1, variance, 1]])
    inputs = InputStatistics(mean, variances, torch.ones(4))
    weight, keep = torch.tensor([[0.5, 0.9, 0.3, 0.25]]), torch.tensor([[True, True, False, False]])

    got = swap_weights(weight, keep, inputs, Pattern(2, 4), DSnoT(cycles=1))

    assert got.keep.nonzero()[:, 1].tolist() == [1, comes]
    assert got.before.tolist() == pytest.approx([1.55])
    share = float(weight[0, comes] * inputs.mean[comes])
    assert got.after.tolist() == pytest.approx([1.55 - 0.5 - share])


def test_dead_inputs_are_worth_nothing():
    weight, x = layer()
    x[:, 8:12] = 0
    keep, got = refined(weight, x, Pattern(2, 4))
    assert got.after.isfinite().all()
    assert torch.equal(keep[:, 8:12], got.keep[:, 8:12])


@pytest.mark.parametrize(
    ("tokens", "first", "spread", "sequences", "seqlen"),
    [
        (96, 40, 1.0, 6, 16),
        (4096, 1000, 1e-3, 256, 16),  # a norm with a small weight and a large bias gives these
        (64, 0, 1.0, 8, 128),  # of an expert that 64 of 1024 tokens reached
    ],
)
def test_moments_of_parts_are_those_of_the_whole(tokens, first, spread, sequences, seqlen):
    x = 2 + spread * torch.randn(tokens, 5)
    parts = moments(x[:first], None) if first else None
    got = InputStatistics.of(moments(x[first:], parts), sequences, seqlen)
    torch.testing.assert_close(got.mean, x.sum(0) / sequences)
    variance = x.double().var(0, unbiased=False).float()
    torch.testing.assert_close(got.variance, variance, rtol=1e-5, atol=0)
    torch.testing.assert_close(got.norm, x.norm(dim=0))


@pytest.mark.parametrize("text", ["2:4", "50%"])
def test_first_block_of_a_model_is_the_definition(text, llama, make_job, refining):
    """The MLP keeps the mask that it came with."""
    job = refining(llama, make_job(llama, text))
    dense = first_block(llama, job)
    rule = DSnoT(threshold=0.001)

    after = rule.apply(copy.deepcopy(llama), job)

    for name, (weight, x) in dense.items():
        keep, got = job.prior.masks[name], after.model.get_submodule(name).weight
        if "attn" in name:
            agree(got, partial(masked, keep, job.pattern, rule, 16), weight, x)
            keep = got != 0
        assert torch.equal(got, weight.where(keep, 0)), name
    assert after.notes["swaps"] > 0
    assert after.notes["expected_error"]["after"] < after.notes["expected_error"]["before"]


def test_all_parts_are_refined_where_asked(family, make, make_job, refining):
    """Leave out experts that too few tokens reached: they have no statistic."""
    model = make(family)
    job = refining(model, make_job(model))

    rule = DSnoT(threshold=0.0, cycles=2)
    parts = ("attention", "all")
    outcomes = {part: replace(rule, part=part).apply(model, job) for part in parts}
    few = outcomes["all"].notes.get("experts", {}).get("by_weights_alone", [])

    for name in job.targets:
        models = {part: outcome.model for part, outcome in outcomes.items()}
        masks = {p: dense_weight(m.get_submodule(name)) != 0 for p, m in models.items()}
        attention = "attn" in name or "attention" in name
        assert torch.equal(masks["attention"], job.prior.masks[name]) != attention, name
        assert torch.equal(masks["all"], job.prior.masks[name]) == (name in few), name


def test_what_the_stage_before_did_to_the_weights_is_undone(llama, job):
    """And what it did to others is declared."""
    masks = {t: job.pattern.keep(llama.get_submodule(t).weight.abs()) for t in job.targets}
    moved = copy.deepcopy(llama)
    for name in job.targets:
        moved.get_submodule(name).weight.mul_(masks[name] * 3)
    moved.model.layers[1].input_layernorm.weight.add_(1)
    prior = Prior(folder=job.source, masks=masks)
    job = replace(job, prior=prior, teacher=lambda: copy.deepcopy(llama))

    outcome = DSnoT().apply(moved, job)

    assert outcome.changed == {"model.layers.1.input_layernorm.weight"}
    for name, got in outcome.model.state_dict().items():
        assert torch.equal(got, llama.state_dict()[name].where(got != 0, 0)), name
