"""The fit of a block against least squares, and the weights of tokens and channels by hand."""

import pytest
import torch
from torch import nn

from methods.workshop.pruning.pairs import Pair
from methods.workshop.training.block_fit import (
    Descent,
    fit,
    scale,
    squared_error,
    weigh,
)


class OneLinear(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, 4, bias=False).requires_grad_(False)

    def forward(self, x):
        return self.linear(x)


def one_linear(width=6, tokens=40):
    """Return a block that is one linear, its inputs, and goals with noise."""
    torch.manual_seed(0)
    block = OneLinear(width)
    inputs = [torch.randn(1, tokens, width) for _ in range(4)]
    truth = torch.randn(width, 4)
    goals = [x @ truth + 0.3 * torch.randn(1, tokens, 4) for x in inputs]
    linears = {"block.linear": block.linear}
    return Pair("block", block, linears, inputs, goals, lambda call, x: call(x))


@pytest.mark.numeric
def test_one_linear_under_a_mask_is_least_squares_of_the_kept():
    pair = one_linear()
    weight = pair.block.linear.weight
    weight[:, [1, 4]] = 0
    goals = weigh(pair.goals, normalize=False, by_channel=False, massive=0)

    start, dice = {"linear.weight": weight.clone()}, torch.Generator().manual_seed(0)
    descent = Descent(steps=800 * 4, relative_lr=0, lr=0.02, betas=(0.9, 0.999))
    list(fit(pair, goals, start, dice, descent))

    x, y = (torch.cat([part[0] for part in parts]).double() for parts in (pair.inputs, pair.goals))
    best = torch.linalg.lstsq(x[:, [0, 2, 3, 5]], y).solution.T
    torch.testing.assert_close(weight[:, [0, 2, 3, 5]].double(), best, rtol=1e-3, atol=1e-3)
    assert not weight[:, [1, 4]].any()


def test_a_scaled_model_is_trained_alike():
    """Weights and goals 64 times as small give the same errors, and weights 64 times as small."""
    trained = []
    for size in (1, 1 / 64):
        pair = one_linear()
        start = {"linear.weight": pair.block.linear.weight.detach() * size}
        goals = weigh([y * size for y in pair.goals], normalize=True, by_channel=True, massive=0)
        dice, descent = torch.Generator().manual_seed(0), Descent(steps=16, relative_lr=0.008)
        losses = list(fit(pair, goals, start, dice, descent))
        trained.append((losses, pair.block.linear.weight / size))

    assert trained[1][0] == pytest.approx(trained[0][0], rel=1e-4)
    torch.testing.assert_close(trained[1][1], trained[0][1], rtol=1e-4, atol=1e-5)


def test_scale_is_that_of_the_kept_weights():
    parameters = {"up.weight": torch.tensor([[7.0, 0], [0, -1]]), "up.bias": torch.zeros(2)}
    parameters |= {"norm.weight": torch.zeros(2), "term.a": torch.full((2, 2), 0.5)}
    assert [scale(name, parameters) for name in parameters] == [5, 5, 1, 0.5]


def test_weights_of_tokens():
    """Compute by hand: sizes 25, 1 and 10000. The last norm is 20 times the median."""
    outputs = [torch.tensor([[[3.0, 4.0], [1.0, 0.0], [100.0, 0.0]]])]

    plain, normalized, without = (
        weigh(outputs, *rule) for rule in ((False, False, 0), (True, False, 0), (True, False, 10))
    )

    assert plain.weights[0].tolist() == [pytest.approx([1 / 10026] * 3)]
    assert normalized.weights[0].tolist() == [pytest.approx([1 / 75, 1 / 3, 1 / 30000])]
    assert without.weights[0].tolist() == [pytest.approx([1 / 50, 1 / 2, 0])]
    assert [goals.left_out for goals in (plain, normalized, without)] == [0, 0, 1]


def error_of_a_change(outputs, goals, change):
    changed = outputs + torch.tensor(change)
    return float(squared_error(changed, outputs, goals.weights[0], goals.scales))


def test_a_channel_counts_by_its_own_size():
    """Compute by hand: without the last token the channels' sizes are 5 and 50."""
    outputs = [torch.tensor([[[7.0, 10.0], [1.0, 70.0], [1000.0, 0.0]]])]
    goals = weigh(outputs, normalize=True, by_channel=True, massive=10)
    assert goals.scales.tolist() == [5, 50]
    assert goals.left_out == 1
    assert goals.weights[0].tolist() == [pytest.approx([0.5 / 2, 0.5 / 2, 0])]
    assert error_of_a_change(outputs[0], goals, [5.0, 0.0]) == pytest.approx(0.5)


def test_a_channel_that_is_always_0_has_the_size_of_the_others():
    """A low-rank term makes it about 1e-9, which is no error."""
    outputs = [torch.tensor([[[3.0, 4.0, 0.0], [3.0, 4.0, 0.0]]])]
    goals = weigh(outputs, normalize=True, by_channel=True, massive=0)
    assert goals.scales.tolist() == pytest.approx([3, 4, 12.5**0.5])
    assert error_of_a_change(outputs[0], goals, [0, 0, 12.5**0.5]) == pytest.approx(0.5)


def test_a_step_is_a_batch_and_the_last_pass_may_be_short():
    pair = one_linear()
    start = {"linear.weight": pair.block.linear.weight.clone()}
    goals = weigh(pair.goals, normalize=True, by_channel=True, massive=0)
    seen = []
    pair.run = lambda call, x: seen.append(x) or call(x)

    losses = list(fit(pair, goals, start, torch.Generator().manual_seed(0), Descent(6, 0.008)))

    assert len(seen) == 6 and len(losses) == 2
    assert {id(x) for x in seen[:4]} == {id(x) for x in pair.inputs}
