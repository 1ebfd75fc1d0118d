import itertools

import pytest
import torch

from methods.contract.pattern import Pattern
from methods.workshop.transforms.sinkhorn import (
    Reader,
    block_size,
    doubly_stochastic,
    harden,
    learn_order,
    pruning_error,
)

PATTERN = Pattern(2, 4)


def linear(rows=6, width=8, seed=0):
    """Return a linear, and inputs whose features are correlated and differ in size."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(32, width, generator=generator) @ torch.randn(width, width, generator=generator)
    x *= torch.arange(1, width + 1) / 2  # the largest inputs are in one group
    return torch.randn(rows, width, generator=generator), x


def permutation(size, seed):
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def naive_error(weight, x, order):
    """Return ||X (W' - W)^T||^2 with two of every four columns kept, as `order` groups them."""
    pruned = torch.zeros_like(weight)
    groups = torch.as_tensor(order).view(-1, 4).tolist()
    for row, group in itertools.product(range(len(weight)), groups):
        sizes = {column: float(weight[row, column].abs() * x[:, column].norm()) for column in group}
        for column in sorted(sizes, key=sizes.__getitem__)[2:]:
            pruned[row, column] = weight[row, column]
    return float((x @ (pruned - weight).T).square().sum())


def learn(weight, x, start, **settings):
    settings = {"steps": 40, "lr": 1.0, "block": 64, "seed": 0} | settings
    return learn_order([Reader(weight, x.T @ x)], start, PATTERN, **settings)


def test_rows_and_columns_of_a_soft_permutation_sum_to_one():
    soft = doubly_stochastic(torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert (soft > 0).all()
    torch.testing.assert_close(soft.sum(-1), torch.ones(3, 2, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(soft.sum(-2), torch.ones(3, 2, 8))


def test_a_soft_permutation_hardens_to_the_best_assignment():
    soft = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    places = harden(soft)
    for matrix, found in zip(soft.flatten(0, 1), places.flatten(0, 1), strict=True):
        orders = torch.tensor(list(itertools.permutations(range(5))))
        sums = matrix[orders, torch.arange(5)].sum(1)
        assert torch.equal(found, orders[sums.argmax()])


@pytest.mark.parametrize("times", [1, 2])
def test_the_error_is_that_of_pruned_outputs(times):
    """Compare two heads with different orders. `times` heads of the queries share each."""
    weight, x = linear(width=2 * times * 8)
    order = torch.stack([permutation(8, seed) for seed in range(2)])
    whole = (order.repeat_interleave(times, 0) + 8 * torch.arange(2 * times)[:, None]).flatten()
    reader, parts = Reader(weight, x.T @ x), order.unflatten(1, (-1, 4))
    expected = pytest.approx(naive_error(weight, x, whole), rel=1e-4)
    assert float(pruning_error(reader, parts, PATTERN)) == expected
    places = torch.stack([permutation(4, seed) for seed in range(4)]).view(2, 2, 4)
    hard = torch.nn.functional.one_hot(places, 4).mT.float().requires_grad_()
    error = pruning_error(reader, parts.gather(-1, places.argsort(-1)), PATTERN, hard)
    assert float(error.detach()) == expected
    error.backward()
    assert hard.grad.abs().sum() > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_the_best_order_where_one_is_known(seed):
    """Four large columns start in one group of 2:4. With two in each group all are kept."""
    weight, x = linear(seed=seed)
    weight *= torch.tensor([1.0] * 4 + [1e-3] * 4)
    x = torch.linalg.qr(x).Q  # so that columns do not replace each other
    order, (first, least) = learn(weight, x, torch.arange(8)[None])
    assert (order.view(2, 4) < 4).sum(1).tolist() == [2, 2]
    assert least < 1e-5 < 0.01 < first


def test_the_search_goes_most_of_the_way_to_the_best_of_all_orders():
    """Compare with the exact errors of all 35 orders."""
    weight, x = linear()
    errors = [
        naive_error(weight, x, (*four, *set(range(8)).difference(four)))
        for four in itertools.combinations(range(8), 4)
    ]
    order, (first, least) = learn(weight, x, torch.arange(8)[None])
    size, start = float((x @ weight.T).square().sum()), naive_error(weight, x, range(8))
    ended = naive_error(weight, x, order[0])
    assert [first * size, least * size] == pytest.approx([start, ended], rel=1e-4)
    assert least * size - min(errors) < 0.25 * (start - min(errors))


def test_channels_change_places_within_their_block_alone():
    weight, x = linear(width=32)
    order, errors = learn(weight, x, torch.arange(32).view(1, -1).flip(1), block=8)
    assert errors[1] < errors[0]
    assert torch.equal(order.view(4, 8).sort(1).values, torch.arange(32).view(4, 8).flip(0))


@pytest.mark.parametrize(("steps", "size"), [(0, 1.0), (2, 0.0)], ids=["no steps", "zero inputs"])
def test_where_nothing_is_learned_the_order_is_the_first_one(steps, size):
    weight, x = linear()
    start = permutation(8, 3)[None]
    order, errors = learn(weight, size * x, start, steps=steps)
    assert torch.equal(order, start) and errors[0] == errors[1]


def test_the_seed_decides_the_search():
    weight, x = linear(rows=24, width=32)
    start = torch.arange(32)[None]
    orders = [learn(weight, x, start, steps=10, seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize(("width", "size"), [(128, 64), (352, 88), (148, 148), (32, 32), (4, 4)])
def test_blocks_are_as_small_as_the_width_allows(width, size):
    assert block_size(width, 4, 64) == size
