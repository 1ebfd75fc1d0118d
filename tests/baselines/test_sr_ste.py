"""SR-STE's rule: the mask in the forward pass, and the decay on what is masked."""

import pytest
import torch
from torch import nn

from baselines.sr_ste import Ast, MaskedWeight, Masks, SrSte
from methods.contract.pattern import Pattern


@pytest.fixture
def masks(make, make_job):
    """masks(family) -> Masks of a model, chosen, and the dense weights [out, in] or [in, out]."""

    def build(family):
        model = make(family).requires_grad_(True)
        job = make_job(model, "2:4")
        found = Masks(model, job)
        found.choose()
        return found, [model.get_submodule(t).parametrizations.weight.original for t in job.targets]

    return build


def test_the_gradient_goes_through_to_what_is_masked():
    weight = nn.Parameter(torch.randn(4, 8))
    mask = MaskedWeight(weight)
    mask.keep.copy_(Pattern(2, 4).keep(weight.detach().abs()))
    slope = torch.randn(4, 8)

    seen = mask(weight)
    (seen * slope).sum().backward()

    assert torch.equal(seen, weight * mask.keep)
    assert torch.equal(weight.grad, slope)


def test_decay_pulls_only_what_is_masked(masks):
    """g + decay * w where masked (arXiv 2102.04010, eq. 9)."""
    found, weights = masks("llama")
    for w in weights:
        w.grad = torch.ones_like(w)

    found.decay(0.5)

    for w, mask in zip(weights, found.all, strict=True):
        assert torch.equal(w.grad, torch.where(mask.keep, 1.0, 1 + 0.5 * w))
        assert mask.keep.float().mean() == 0.5


def test_flips_are_the_share_of_marks_that_turned(masks):
    found, weights = masks("llama")
    assert found.choose() == 0
    with torch.no_grad():
        weights[0].copy_(1 / weights[0])  # the smallest become the largest
    assert found.choose() == pytest.approx(weights[0].numel() / sum(w.numel() for w in weights))


def test_ast_grows_into_its_decay():
    assert [Ast(decay=1.0).decay_at(step, 8) for step in (0, 2, 4, 8)] == [0, 0.5, 1, 1]
    assert SrSte(decay=0.3).decay_at(0, 8) == 0.3


def test_ast_updates_its_masks_a_thousand_times_and_at_most_ten_steps_apart():
    assert [Ast().refresh_steps(total) for total in (1, 80, 300, 1000, 7500, 10**6)] == [
        1,
        1,
        1,
        1,
        7,
        10,
    ]
    assert Ast(refresh=3).refresh_steps(7500) == 3
    assert SrSte().refresh_steps(7500) == 1
