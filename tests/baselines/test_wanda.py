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


@pytest.mark.parametrize("text", ["2:4", "3:8", "50%", "30%"])
def test_first_block_is_the_definition(text, llama, make_job):
    """Unstructured, 16 of the 32 weights in each row are kept, or 22 (9.6 is rounded to 10)."""
    job = make_job(llama, text)
    dense = first_block(llama, job)

    Wanda().apply(llama, job)

    for name, (weight, x) in dense.items():
        m = job.pattern.m or weight.shape[1]
        n = job.pattern.n or m - round(m * job.pattern.sparsity)
        assert torch.equal(llama.get_submodule(name).weight, naive(weight, x, n, m)), name


def test_input_that_is_no_number_raises(llama, job):
    llama.model.layers[0].input_layernorm.weight[0] = torch.nan
    with pytest.raises(FloatingPointError):
        Wanda().apply(llama, job)
