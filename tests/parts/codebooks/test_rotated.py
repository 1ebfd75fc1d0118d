"""Feedback by tiles against its definition, and the storage that codes of rotated weights share."""

import pytest
import torch

from bench.parts.codebooks import rotated
from bench.parts.codebooks.higgs import HiggsCodec
from bench.parts.codebooks.trellis import Tcq3
from methods.contract.errors import Skipped
from methods.workshop.pruning.hessian import compensate_, inverse_factor
from methods.workshop.transforms.incoherence import turn_weight, turn_weight_back

pytestmark = pytest.mark.numeric


def snap(x):
    """The nearest multiples of 0.25."""
    return (x * 4).round() / 4


def layer(out=24, width=48):
    x = torch.randn(400, width) @ (torch.eye(width) + torch.randn(width, width) / width**0.5)
    return torch.randn(out, width), x.T @ x / len(x)


def naive(weight, hessian, columns):
    """The weight after each tile is rounded and the rest is the best for it, in float64."""
    w, h = weight.double().clone(), hessian.double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    for a in range(0, len(h), columns):
        b = a + columns
        inverse = torch.linalg.inv(h[a:, a:])
        error = w[:, a:b] - snap(w[:, a:b])
        inner = torch.linalg.inv(inverse[:columns, :columns])
        w[:, a:] -= error @ inner @ inverse[:columns]
    return w


@pytest.mark.parametrize("columns", [1, 4, 16])
def test_feedback_by_tiles_is_its_definition(columns):
    weight, hessian = layer(width=144 if columns == 16 else 48)
    factor, _ = inverse_factor(hessian, 0.01)

    got = rotated.compensate_tiles_(weight, factor, lambda a, w: snap(w), columns)

    torch.testing.assert_close(got.double(), naive(weight, hessian, columns), rtol=0, atol=1e-5)


def test_tiles_of_one_column_are_the_loop_of_gptq():
    weight, hessian = layer(width=144)
    factor, _ = inverse_factor(hessian, 0.01)

    got = rotated.compensate_tiles_(weight, factor, lambda a, w: snap(w), 1)
    want = compensate_(weight, factor, lambda a, b, w: lambda i, column: snap(column), 16, 128)

    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_a_tile_sees_the_errors_before_it_and_a_narrow_last_one_is_whole():
    weight, hessian = layer(width=20)
    factor, _ = inverse_factor(hessian, 0.01)
    seen = []

    rotated.compensate_tiles_(weight, factor, lambda a, w: seen.append((a, len(w))) or w, 16)

    assert seen == [(0, 16), (16, 4)]


def test_a_pruned_model_is_refused(llama, make_job):
    rotated.require_dense("tcq3", make_job(llama, "dense"))
    with pytest.raises(Skipped, match="no zero of 2:4 is kept: use int3-gptq"):
        rotated.require_dense("tcq3", make_job(llama, "2:4"))


def test_rows_that_were_added_do_not_lower_the_scale():
    columns = torch.cat([torch.full((16, 5), 0.5), torch.zeros(16, 3)], 1)
    assert HiggsCodec(3, (5, 16)).scale(columns) == 0.5
    assert HiggsCodec(3, (5, 16)).scale(torch.zeros(16, 8)) == 1


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_asymmetry_is_a_share_of_the_way_to_the_least_squares_fit(share):
    given = torch.randn(200, 20) @ torch.randn(20, 20)
    now, weight = given + torch.randn_like(given), torch.randn(12, 20)
    hessian = now.T @ now

    prepared = Tcq3(asymmetry=share)._prepare(hessian, (given - now).T @ now)

    ridge = 0.01 * hessian.diagonal().mean() * torch.eye(20)
    fit = torch.linalg.solve(hessian + ridge, now.T @ given @ weight.T + ridge @ weight.T).T
    turned = turn_weight(weight)
    got = turn_weight_back(turned + turned @ prepared.correction)
    torch.testing.assert_close(got, weight.lerp(fit, share), rtol=0, atol=1e-4)
