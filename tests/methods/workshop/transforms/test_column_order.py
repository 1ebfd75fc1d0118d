import itertools

import pytest
import torch

from methods.workshop.transforms.column_order import best_order, kept


def naive_kept(scores, order, n, m):
    rows = scores[:, order].tolist()
    return sum(sum(sorted(row[i : i + m])[-n:]) for row in rows for i in range(0, len(row), m))


@pytest.fixture
def scores():
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(0)).pow(4)


def test_kept_is_the_sum_of_the_largest(scores):
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    assert kept(scores[:, order], 2, 4) == pytest.approx(naive_kept(scores, order, 2, 4), rel=1e-6)


def test_the_order_is_near_the_best_of_all(scores):
    """Compare with all ways to make two groups of four."""
    sums = []
    for four in itertools.combinations(range(8), 4):
        way = torch.tensor([*four, *set(range(8)).difference(four)])
        sums.append(naive_kept(scores, way, 2, 4))
    order = best_order(scores, 2, 4, rounds=8)
    assert sorted(order.tolist()) == list(range(8))
    found, first = (naive_kept(scores, o, 2, 4) for o in (order, torch.arange(8)))
    assert found >= first
    assert found >= sorted(sums)[-4]  # a swap of single columns ends in a local best


def test_no_order_is_worse_than_the_first():
    scores = torch.tensor([[1.0, 0, 1, 0, 1, 0, 1, 0]])  # 1:2 keeps all
    assert torch.equal(best_order(scores, 1, 2, rounds=3), torch.arange(8))


@pytest.mark.parametrize("rounds", [1, 3])
def test_columns_that_matter_together_are_parted(rounds):
    scores = torch.zeros(4, 8)
    scores[:, :4] = 1  # four large columns in one group of 2:4
    assert kept(scores[:, best_order(scores, 2, 4, rounds)], 2, 4) == 16
