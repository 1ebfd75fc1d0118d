"""RIA against its definition: by hand on a small matrix, and weight by weight."""

import pytest
import torch

from baselines.ria import Ria
from helpers.layers import NEAR, first_block
from helpers.oracles import largest

pytestmark = pytest.mark.numeric


def naive(weight, x, pattern, power):
    """Return the pruned weight, scored in float64 and compared one by one. Refuse near ties."""
    w = weight.double().abs()
    score = (w / w.sum(1, keepdim=True) + w / w.sum(0)) * x.double().square().sum(0).sqrt() ** power
    size = pattern.m or score.numel()
    count = pattern.n or size - round(size * pattern.sparsity)
    return weight.where(largest(score, count, size, NEAR), 0)


@pytest.mark.parametrize(
    ("pattern", "power"), [("2:4", 0.5), ("2:4", 0), ("4:8", 1.0), ("30%", 0.5)]
)
def test_first_block_is_the_definition(pattern, power, llama, make_job):
    job = make_job(llama, pattern)
    dense = first_block(llama, job)
    Ria(power=power).apply(llama, job)
    for name, (weight, x) in dense.items():
        assert torch.equal(
            llama.get_submodule(name).weight, naive(weight, x, job.pattern, power)
        ), name


def test_rows_and_columns_of_zeros_are_no_division_by_zero(llama, job):
    weight = llama.model.layers[0].self_attn.q_proj.weight
    weight[3], weight[:, 8:12] = 0, 0

    Ria().apply(llama, job)

    assert weight.isfinite().all()
    assert job.pattern.violations(weight) == 0
    assert (
        weight[0].unflatten(0, (-1, 4)).count_nonzero(-1) == torch.tensor([2, 2, 0, 2, 2, 2, 2, 2])
    ).all()
