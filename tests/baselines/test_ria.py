"""RIA against its definition: by hand on a small matrix, and weight by weight."""

import pytest
import torch

from baselines.ria import Ria, relative_importance
from helpers.layers import NEAR, first_block
from methods.pattern import Pattern

pytestmark = pytest.mark.numeric

WEIGHT = [
    [1, -2, 3, 4, 0, 1, 1, -4],
    [2, 2, -2, 2, 1, 1, 1, 1],
    [0, 0, 0, 8, 0, -2, 4, 2],
    [-5, 1, 1, 1, 3, 0, 2, 1],
]
ROWS = [16, 12, 16, 14]
COLUMNS = [8, 5, 6, 15, 4, 4, 8, 8]


def test_by_hand_on_a_4_by_8_matrix():
    """Row 0: 1/16 + 1/8, 2/16 + 2/5, 3/16 + 3/6, 4/16 + 4/15 | 0, 1/16 + 1/4, 1/16 + 1/8, 4/16 + 4/8."""
    weight = torch.tensor(WEIGHT, dtype=torch.float32)
    want = [[abs(w) / ROWS[i] + abs(w) / COLUMNS[j] for j, w in enumerate(row)] for i, row in enumerate(WEIGHT)]

    got = relative_importance(weight)

    assert want[0][:4] == pytest.approx([0.1875, 0.525, 0.6875, 0.51667], abs=1e-5)
    torch.testing.assert_close(got, torch.tensor(want))
    # its two largest of row 0's first group are -2 and 3: the 4 is in a crowded column
    assert Pattern(2, 4).keep(got)[0].tolist() == [False, True, True, False, False, True, False, True]
    # inputs sixteen times as loud count four times at power 1/2, so column 3 is kept
    loud = torch.tensor([1.0, 1, 1, 16, 1, 1, 1, 1])
    assert Pattern(2, 4).keep(got * loud**0.5)[0, :4].tolist() == [False, False, True, True]


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


@pytest.mark.parametrize(
    ("pattern", "power"), [("2:4", 0.5), ("2:4", 0), ("4:8", 1.0), ("1:4", 0.5), ("50%", 0.5), ("30%", 0.5)]
)
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
