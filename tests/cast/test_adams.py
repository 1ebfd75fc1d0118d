"""AdamS against its equations."""

import copy
import math

import pytest
import torch

from cast.adams import AdamS, Scalars, reference
from helpers.trainings import SHAPES, parameters, train
from methods.contract.pattern import Pattern

pytestmark = pytest.mark.numeric

CLOSE = {"rtol": 2e-5, "atol": 2e-6}
"""A hundred steps round a weight by 6e-6 of itself, and its moves by 6e-7."""
HYPER = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}


def adams(params, total=100, sparse=True, **options):
    options = HYPER | {"lambda_": 0.5, "kernel": "foreach", "pattern": Pattern(2, 4)} | options
    return AdamS([{"params": params, "sparse": sparse}], total=total, **options)


def naive(shapes=SHAPES, steps=100, lambda_=0.5, n=2, m=4, refresh=10):
    """Compute the paper's rule in float64, one weight at a time."""
    lr, (beta1, beta2), eps = HYPER["lr"], HYPER["betas"], HYPER["eps"]
    out = []
    weights = [p.detach().double() for p in parameters(shapes)]
    rng = torch.Generator().manual_seed(1)
    gradients = []
    for _ in range(steps):
        gradients.append([torch.randn(w.shape, generator=rng).tolist() for w in weights])
    for index, (rows, width) in enumerate(shapes):
        w = weights[index].tolist()
        mu = [[0.0] * width for _ in range(rows)]
        v = [[0.0] * width for _ in range(rows)]
        keep = [[True] * width for _ in range(rows)]
        for t in range(steps):
            alpha = t / steps
            for r in range(rows):
                if t % refresh == 0:
                    for a in range(0, width, m):
                        order = sorted(range(a, a + m), key=lambda c: (-abs(w[r][c]), c))
                        last, first = (abs(w[r][c]) for c in order[n - 1 : n + 1])
                        near = 2 * (CLOSE["atol"] + CLOSE["rtol"] * last)
                        assert last - first > near, "a near tie"
                        for c in range(a, a + m):
                            keep[r][c] = c in order[:n]
                for c in range(width):
                    mu[r][c] = beta1 * mu[r][c] + (1 - beta1) * gradients[t][index][r][c]
                    moved = mu[r][c]
                    if not keep[r][c]:
                        assert abs(w[r][c]) > 2 * CLOSE["atol"], "a sign that rounding may turn"
                        sign = (w[r][c] > 0) - (w[r][c] < 0)
                        moved = (1 - alpha) * mu[r][c] + alpha * lambda_ * sign
                    v[r][c] = beta2 * v[r][c] + (1 - beta2) * moved**2
                    below = math.sqrt(v[r][c] / (1 - beta2 ** (t + 1))) + eps
                    w[r][c] -= lr * (moved / (1 - beta1 ** (t + 1))) / below
        out.append(torch.tensor(w, dtype=torch.float64))
    return out


@pytest.fixture(scope="module")
def oracle():
    return naive()


@pytest.mark.parametrize(
    "kernel", ["reference", "foreach", pytest.param("fused", marks=pytest.mark.slow)]
)
def test_hundred_steps_are_the_equations(kernel, oracle):
    params = parameters()
    train(params, adams(params, kernel=kernel), 100)
    for p, want in zip(params, oracle, strict=True):
        torch.testing.assert_close(p.detach().double(), want, **CLOSE)


def test_outside_theta_it_is_adam():
    mine, theirs = parameters(), parameters()
    train(mine, adams(mine, sparse=False), 100)
    train(theirs, torch.optim.Adam(theirs, **HYPER), 100)
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_second_moment_is_fed_by_what_moves_the_weight():
    w, g = torch.tensor([0.5, 0.5]), torch.tensor([3.0, 3.0])
    mu, v = torch.zeros(2), torch.zeros(2)
    s = Scalars(lr=0.0, beta1=0.9, beta2=0.95, eps=0.0, alpha=0.25, lambda_=2.0, t=0)
    reference(w, g, mu, v, torch.tensor([True, False]), s)
    torch.testing.assert_close(mu, torch.tensor([0.3, 0.3]))
    torch.testing.assert_close(v, 0.05 * torch.tensor([0.3, 0.75 * 0.3 + 0.25 * 2.0]) ** 2)


def test_masked_weight_without_gradient_reaches_zero():
    p = torch.nn.Parameter(torch.tensor([[1.0, 0.8, 0.3, -0.2]]))
    optimizer = adams([p], total=200, lr=5e-3)
    for _ in range(200):
        p.grad = torch.zeros_like(p)
        optimizer.step()

    assert torch.equal(p.detach()[0, :2], torch.tensor([1.0, 0.8]))
    assert p.detach()[0, 2:].abs().max() <= 2 * 5e-3  # it steps over zero and back by lr
    optimizer.apply_mask()
    assert torch.equal(p.detach(), torch.tensor([[1.0, 0.8, 0.0, 0.0]]))


def test_marks_are_taken_every_refresh_and_count_what_changed():
    params = parameters()
    total = sum(p.numel() for p in params)
    optimizer = adams(params, refresh=5)

    def marks():
        return torch.cat([optimizer.state[p]["keep"].flatten() for p in params]).clone()

    def flipped():
        return optimizer.metrics["flipped"]

    train(params, optimizer, 1)
    first = marks()
    assert flipped() == 0 and 0.5 < optimizer.metrics["S"] < 1
    train(params, optimizer, 4, seed=5)
    assert torch.equal(first, marks())
    params[0].data.copy_(params[0].flip(1))
    train(params, optimizer, 1)
    share = float((first != marks()).sum()) / total
    assert flipped() == pytest.approx(share) and share > 0
    params[0].data.copy_(params[0].flip(1))
    optimizer.update_mask()
    assert flipped() > share  # of all updates so far
    before = flipped()
    # A card's, which was not waited for.
    optimizer._unread = (torch.tensor([0.0, 0.0, 8.0], dtype=torch.float64), 0.0, 1)
    optimizer.update_mask()
    assert flipped() == pytest.approx(before + 8 / total)


def test_fixed_mask_stays():
    params = parameters()
    optimizer = adams(params, fixed=True)
    train(params, optimizer, 1)
    first = [optimizer.state[p]["keep"].clone() for p in params]
    at_first = optimizer.metrics["S"]
    params[0].data.neg_().add_(3)
    train(params, optimizer, 30)
    optimizer.apply_mask()

    assert optimizer.metrics["S"] != at_first  # metrics are updated although the mask is fixed
    assert optimizer.metrics["flipped"] == 0
    for p, keep in zip(params, first, strict=True):
        assert torch.equal(p.detach() != 0, keep)


def test_automatic_lambda_is_the_mean_momentum_of_the_first_steps():
    params = parameters()
    optimizer = adams(params, lambda_="auto", lambda_scale=3.0)
    train(params, optimizer, 10)
    mu = torch.cat([optimizer.state[p]["mu"].flatten() for p in params])
    want = 3.0 * float(mu.abs().mean()) / (1 - 0.9**10)
    assert optimizer.param_groups[0]["lambda_"] == pytest.approx(want, rel=1e-5)
    train(params, optimizer, 5, scale=100.0)
    assert optimizer.param_groups[0]["lambda_"] == pytest.approx(want, rel=1e-5)


def test_decoupled_pull_stops_at_zero_and_spares_what_is_kept():
    p = torch.nn.Parameter(torch.tensor([[1.0, 0.8, 0.3, -0.0002]]))
    optimizer = adams([p], total=10, lr=0.1, decoupled=True)
    for _ in range(10):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert torch.equal(p.detach()[0, :2], torch.tensor([1.0, 0.8]))
    assert p.detach()[0, 3] == 0
    assert 0 <= float(p.detach()[0, 2]) < 0.3


def test_large_tensors_are_handled_in_pieces_alike():
    shapes = [(300, 512)]
    one, two = parameters(shapes), parameters(shapes)
    train(one, adams(one, kernel="foreach"), 3)
    train(two, adams(two, kernel="reference"), 3)
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-6)


def test_state_dict_goes_on_where_it_was():
    straight = parameters()
    optimizer = adams(straight)
    train(straight, optimizer, 13)
    twins = [torch.nn.Parameter(p.detach().clone()) for p in straight]
    other = adams(twins)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(straight, optimizer, 20, seed=7)
    train(twins, other, 20, seed=7)

    for p, q in zip(straight, twins, strict=True):
        assert torch.equal(p, q)
