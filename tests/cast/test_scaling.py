"""CAST's scales: nothing at the start, folded away at the end."""

import pytest
import torch

from cast import scaling
from methods.contract.errors import UserError


@pytest.mark.numeric
def test_folding_keeps_outputs_and_zeros(llama, make_job):
    model, job = llama, make_job(llama)
    scaling.add(model, job.targets)
    zeros = {}
    for name in job.targets:
        parts = model.get_submodule(name).parametrizations.weight
        parts[0].scale.data.normal_()  # half of them negative, which would leave -0.0 behind
        parts.original.data.masked_fill_(~job.pattern.keep(parts.original.abs()), 0)
        zeros[name] = parts.original == 0
    want = model(job.calibration).logits

    scaling.fold(model, job.targets)

    torch.testing.assert_close(model(job.calibration).logits, want)
    for name in job.targets:
        weight = model.get_submodule(name).weight
        assert torch.equal(weight == 0, zeros[name])
        assert not (weight.view(torch.int32) == -(2**31)).any()
    assert not any("parametrizations" in n for n, _ in model.named_parameters())


def test_a_scale_serves_its_block_of_its_row():
    weight = torch.ones(3, 8)
    scale = scaling.Scale(weight, 2)
    scale.scale.data[1] = torch.tensor([2.0, 5.0])
    want = torch.ones(3, 8)
    want[1, :4], want[1, 4:] = 2, 5
    assert torch.equal(scale(weight), want)


def test_a_row_that_is_no_whole_number_of_blocks():
    with pytest.raises(UserError, match="scales=3 does not divide a row of 8 weights"):
        scaling.Scale(torch.ones(3, 8), 3)


@pytest.mark.numeric
@pytest.mark.parametrize("chunk", [1, 40, 10_000])
def test_gradients_are_those_of_a_product(chunk):
    weight = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    scale = scaling.Scale(weight.detach(), 3, chunk=chunk)
    scale.scale.data.normal_()
    inputs = torch.randn(5, 12, dtype=torch.float64)

    (inputs @ scale(weight).T).square().sum().backward()

    plain, scales = weight.detach().requires_grad_(), scale.scale.detach().requires_grad_()
    (inputs @ (plain * scales.repeat_interleave(4, 1)).T).square().sum().backward()
    torch.testing.assert_close(weight.grad, plain.grad)
    torch.testing.assert_close(scale.scale.grad, scales.grad)
