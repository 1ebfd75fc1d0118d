"""RIA against its definition: by hand on a small matrix, and weight by weight."""

import pytest
import torch

from baselines.ria import Ria
from helpers.layers import NEAR, first_block

pytestmark = pytest.mark.numeric


def naive(weight, x, pattern, power):
    """Return the pruned weight, with sums and comparisons one by one in float64. Refuse near ties."""
    w, norm = weight.double().abs().tolist(), x.double().square().sum(0).sqrt().tolist()
    out, width = weight.shape
    rows = [sum(row) for row in w]
    columns = [sum(w[i][j] for i in range(out)) for j in range(width)]
    score = {
        (i, j): (w[i][j] / rows[i] + w[i][j] / columns[j]) * norm[j] ** power for i in range(out) for j in range(width)
    }
    kept = torch.zeros_like(weight)
    if pattern.m:
        groups = [[(i, a + k) for k in range(pattern.m)] for i in range(out) for a in range(0, width, pattern.m)]
        count = pattern.n
    else:
        groups, count = [list(score)], len(score) - round(len(score) * pattern.sparsity)
    for group in groups:
        order = sorted(group, key=lambda at: (-score[at], at))
        assert score[order[count]] < (1 - NEAR) * score[order[count - 1]]
        for i, j in order[:count]:
            kept[i, j] = weight[i, j]
    return kept


@pytest.mark.parametrize(("pattern", "power"), [("2:4", 0.5), ("2:4", 0), ("4:8", 1.0), ("30%", 0.5)])
def test_first_block_is_the_definition(pattern, power, llama, make_job):
    job = make_job(llama, pattern)
    dense = first_block(llama, job)

    Ria(power=power).apply(llama, job)

    for name, (weight, x) in dense.items():
        assert torch.equal(llama.get_submodule(name).weight, naive(weight, x, job.pattern, power)), name


def test_rows_and_columns_of_zeros_are_no_division_by_zero(llama, job):
    weight = llama.model.layers[0].self_attn.q_proj.weight
    weight[3], weight[:, 8:12] = 0, 0

    Ria().apply(llama, job)

    assert weight.isfinite().all()
    assert job.pattern.violations(weight) == 0
    assert (weight[0].unflatten(0, (-1, 4)).count_nonzero(-1) == torch.tensor([2, 2, 0, 2, 2, 2, 2, 2])).all()
