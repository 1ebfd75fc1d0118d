"""Wanda against its definition, weight by weight."""

import pytest
import torch

from baselines.wanda import Wanda
from helpers.layers import NEAR, first_block
from helpers.oracles import largest

pytestmark = pytest.mark.numeric


def naive(weight, x, n, m):
    """Keep the n of every m neighbours with the largest |W_ij| * ||X_j||. Refuse near ties."""
    score = weight.double().abs() * x.double().square().sum(0).sqrt()
    return weight.where(largest(score, n, m, NEAR), 0)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 8)])
def test_first_block_is_the_definition(n, m, llama, make_job):
    job = make_job(llama, f"{n}:{m}")
    dense = first_block(llama, job)

    Wanda().apply(llama, job)

    for name, (weight, x) in dense.items():
        assert torch.equal(llama.get_submodule(name).weight, naive(weight, x, n, m)), name


@pytest.mark.parametrize("text", ["50%", "30%"])
def test_unstructured_is_counted_per_row(text, llama, make_job):
    """Keep 16 of 32 weights in a row, or 22 (9.6 is rounded to 10)."""
    job = make_job(llama, text)
    dense = first_block(llama, job)

    Wanda().apply(llama, job)

    for name, (weight, x) in dense.items():
        width = weight.shape[1]
        kept = width - round(width * job.pattern.sparsity)
        assert torch.equal(llama.get_submodule(name).weight, naive(weight, x, kept, width)), name


def test_input_that_is_no_number_raises(llama, job):
    llama.model.layers[0].input_layernorm.weight[0] = torch.nan

    with pytest.raises(FloatingPointError):
        Wanda().apply(llama, job)
