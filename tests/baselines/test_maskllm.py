"""MaskLLM: gates, the prior, the schedules, the regulariser, and the outcome of a training."""

import copy
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from baselines.maskllm import Gated, MaskLLM, Sampling, all_patterns
from helpers.models import sample
from helpers.trainings import LAST_DIGIT, weight_of
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

EVEN = Sampling(step=0, tau=1.0, kappa=100.0, penalty=0.0)


def gated(pattern="2:4", out=6, width=16, weight=None):
    weight = torch.randn(width, out).T if weight is None else weight
    return Gated(weight, Pattern.parse(pattern), (0, 0))


def noise_of(mask, draw):
    """Return the noise of a soft mask: with gates of 0, log p is g up to a constant."""
    still = copy.deepcopy(mask)
    still.gate.data.zero_()
    probability = []
    real = torch.Tensor.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", lambda x, d: probability.append(x) or real(x, d))
        still.soft_mask(draw._replace(tau=1.0))
    return probability[0].detach().double().numpy()


@pytest.mark.numeric
@pytest.mark.parametrize("pattern", ["2:4", "2:8"])
def test_a_soft_mask_is_the_mixture_of_its_patterns(pattern):
    draw = Sampling(step=3, tau=0.7, kappa=150.0, penalty=0.0)
    mask = gated(pattern)
    n, m = map(int, pattern.split(":"))
    noise = noise_of(mask, draw)

    soft = mask.soft_mask(draw).detach().numpy()

    for row in range(6):
        for group in range(16 // m):
            gate = mask.gate[row, group].detach().double().numpy()
            logits = (draw.kappa * gate + noise[row, group]) / draw.tau
            p = np.exp(logits - logits.max())
            p /= p.sum()
            expected = np.zeros(m)
            for weight, kept in zip(p, combinations(range(m), n), strict=True):
                expected[list(kept)] += weight
            np.testing.assert_allclose(soft[row, group * m : group * m + m], expected, atol=1e-6)


def test_noise_is_gumbels():
    """Expect mean 0.5772 and variance pi^2 / 6. The noise depends on step, seed and target."""
    mask = gated(out=64, width=2048)
    noise = noise_of(mask, EVEN)

    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.02)
    again = copy.deepcopy(mask)
    assert torch.equal(mask.soft_mask(EVEN), again.soft_mask(EVEN))
    assert not torch.equal(mask.soft_mask(EVEN), mask.soft_mask(EVEN._replace(step=1)))
    for key in ((1, 0), (0, 1)):
        again._key = key
        assert not torch.equal(mask.soft_mask(EVEN), again.soft_mask(EVEN))


def test_patterns_are_all_there_are():
    assert all_patterns(Pattern(2, 4)).tolist() == [
        [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1],
    ]  # fmt: skip
    found = all_patterns(Pattern(4, 8))
    assert len(found) == 70 == len(found.unique(dim=0))
    assert found.sum(-1).eq(4).all()


def test_a_prior_is_chosen_as_often_as_in_the_paper():
    """tau = 1, alpha = 3, kappa = 100: mean p(prior) 0.73, the likeliest on 94.5% of groups."""
    mask = gated(out=256, width=1024)
    keep = Pattern(2, 4).keep(torch.rand(256, 1024))
    mask.apply_prior(keep, alpha=3.0)

    p = (100 * mask.gate).softmax(-1)
    chosen = (keep.view(256, -1, 1, 4) == (mask.patterns > 0)).all(-1)  # [256, 256, 6]
    assert p[chosen].mean().item() == pytest.approx(0.73, abs=0.005)
    likeliest = chosen.gather(-1, p.argmax(-1, keepdim=True)).float().mean()
    assert likeliest.item() == pytest.approx(0.945, abs=0.003)

    logits = np.random.default_rng(0).normal(size=(100_000, 6)) + 3 * np.array([1, 0, 0, 0, 0, -1])
    simulated = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert p[chosen].mean().item() == pytest.approx(simulated[:, 0].mean(), abs=0.005)


def test_schedules():
    method = MaskLLM()
    start, middle = method.sampling_at(0, 100), method.sampling_at(50, 100)
    assert start == Sampling(0, 4.0, 100.0, 2e-5)
    assert middle == Sampling(50, pytest.approx(2.025), 300, pytest.approx(1e-5))
    assert method.sampling_at(100, 100) == Sampling(100, pytest.approx(0.05), 500.0, 0.0)
    assert method.sampling_at(0, 100, micro_batches=4).penalty == 5e-6
    rates = [method.lr_at(step, 1000, method.lr) for step in (0, 500, 1000)]
    assert rates == pytest.approx([5e-4, 2.75e-4, 5e-5])


@pytest.mark.numeric
def test_the_gradient_is_that_of_the_regularised_loss():
    """Replace CE by sum (slope * W M). The rest is -lambda (1 - t/T) sum (W M)^2."""
    weight, slope = torch.randn(6, 16), torch.randn(6, 16)
    mask = gated(weight=weight)
    draw = MaskLLM(lambda_=0.3, tau=1.0).sampling_at(20, 100)
    mask.sampling = draw

    seen = mask(weight)
    (slope * seen).sum().backward()

    got, mask.gate.grad = mask.gate.grad, None
    masked = weight * mask.soft_mask(draw)
    ((slope * masked).sum() - 0.3 * 0.8 * masked.square().sum()).backward()
    assert torch.equal(seen, masked)
    torch.testing.assert_close(got, mask.gate.grad, rtol=1e-5, atol=1e-6)


def test_untrained_it_is_the_priors_mask_over_the_dense_weights(llama, task):
    """Leaning so far that no gate argues, and lr 0: the one-shot mask alone."""
    model, job = llama, task(llama, steps=1)
    given = copy.deepcopy(model)
    for target in job.targets:
        weight_of(given, target).mul_(job.prior.masks[target]).add_(job.prior.masks[target].float())
    inside = "model.layers.0.input_layernorm.weight"
    given.get_parameter(inside).add_(1)

    outcome = MaskLLM(lr=0.0, alpha=1000.0).apply(given, job)

    assert outcome.changed == {inside}
    assert outcome.notes["groups_moved"] == 0
    for name, parameter in model.named_parameters():
        target = name.removesuffix(".weight")
        if target in job.targets:
            kept, mask = weight_of(outcome.model, target), job.prior.masks[target]
            assert torch.equal(kept, weight_of(model, target).masked_fill(~mask, 0))
            assert not (kept.signbit() & (kept == 0)).any()
        else:
            assert torch.equal(parameter, outcome.model.get_parameter(name))


def test_weights_that_stay_are_the_dense_ones(llama, task):
    model, job = llama, task(llama, steps=8)
    outcome = MaskLLM(lr=3e-3).apply(copy.deepcopy(model), job)
    assert outcome.changed == frozenset()
    assert 0.01 < outcome.notes["groups_moved"] < 1
    for target in job.targets:
        after, before = weight_of(outcome.model, target), weight_of(model, target)
        assert torch.equal(after[after != 0], before[after != 0])


def test_memory_is_noted(llama, task):
    notes = MaskLLM().apply(copy.deepcopy(llama), task(llama, pattern="4:8", steps=1)).notes
    assert (notes["patterns"], notes["bytes_per_weight"]) == (70, 144)


def test_autocast_does_not_coarsen_the_mask():
    mask = gated()
    mask.sampling = EVEN
    weight = torch.ones(6, 16)
    with torch.autocast("cpu", torch.bfloat16):
        seen = mask(weight)
    assert torch.equal(seen, mask.soft_mask(EVEN))


def test_too_many_patterns_are_refused(llama, task):
    with pytest.raises(UserError, match="at most 70, and 8:16 has 12,870: "):
        MaskLLM().apply(llama, replace(task(llama), pattern=Pattern(8, 16)))


GOLDEN = {
    "ce": [
        4.1767, 4.15347, 3.96705, 3.97128, 3.91316, 3.90009, 3.92364, 3.86064, 3.8102, 3.81711,
        3.80211, 3.79328,
    ],
    "norm": [
        0.411518, 0.606613, 0.826721, 0.984652, 1.19319, 1.80256, 1.92495, 2.7889, 2.51059,
        4.28776, 4.73856, 9.18656,
    ],
}  # fmt: skip


@pytest.mark.numeric
@pytest.mark.parametrize("moved", sample([0.0, 1e-10], 0.0))
def test_golden_trace(moved, make_exact, task, monkeypatch):
    """Twelve steps, number by number; written by this code on 2026-11-30, so a change of arithmetic
    is meant.

    In float64, on any processor: a start moved by a million roundings turns no pattern and no digit
    but the last of six. Exponential numbers are drawn from integers, because torch's own differ
    between its builds, with MKL and without.
    """

    def exponential(x, generator):
        uniform = torch.randint(1, 2**24, x.shape, generator=generator).double() / 2**24
        return x.copy_(-uniform.log())

    monkeypatch.setattr(torch.Tensor, "exponential_", exponential)
    model = make_exact("llama", moved)

    notes = MaskLLM(lr=3e-3).apply(model, task(model, steps=12, budget={"log_every": 1})).notes

    for name, golden in GOLDEN.items():
        assert [r[name] for r in notes["curve"]] == pytest.approx(golden, rel=LAST_DIGIT), name
    assert math.isclose(notes["curve"][6]["kappa"], 300)


def test_noise_of_zero_is_no_infinity():
    mask = gated()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "exponential_", lambda x, **_: x.zero_())
        assert mask.soft_mask(EVEN).isfinite().all()
