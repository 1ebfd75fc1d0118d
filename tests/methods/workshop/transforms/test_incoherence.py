"""The fast products against the matrices that they stand for, in float64."""

import pytest
import torch

from methods.workshop.transforms import incoherence

WIDTHS = [16, 12, 20, 28, 36, 128, 576, 640, 896, 1536, 13, 26, 50]
"""The last three have no Hadamard matrix that is known."""


def explicit(width, side):
    """The matrix of a side, float64 [width, width]."""
    product = torch.ones(1, 1, dtype=torch.float64)
    for matrix in incoherence.factors(width):
        product = torch.kron(product, matrix)
    product = torch.kron(product, torch.eye(width // len(product), dtype=torch.float64))
    return product * incoherence.signs(width, side).double() / product[0].norm()


@pytest.mark.numeric
@pytest.mark.parametrize("width", WIDTHS)
def test_the_matrix_of_a_side_is_orthogonal(width):
    matrix = explicit(width, "in")
    eye = torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.T, eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("width", "orders"),
    [(2048, [32, 32, 2]), (576, [16, 36]), (640, [32, 20]), (1536, [32, 4, 12]), (26, [2])],
)
def test_the_odd_factor_has_the_smallest_matrix_that_is_known(width, orders):
    assert [len(matrix) for matrix in incoherence.factors(width)] == orders


@pytest.mark.numeric
@pytest.mark.parametrize("out", [13, 16, 36])
@pytest.mark.parametrize("width", WIDTHS[:8])
def test_a_weight_is_turned_on_both_sides_and_back(out, width):
    weight = torch.randn(out, width)
    u, v = explicit(out, "out"), explicit(width, "in")

    turned = incoherence.turn_weight(weight.bfloat16())
    torch.testing.assert_close(
        turned.double(), u @ weight.bfloat16().double() @ v.T, rtol=0, atol=1e-5
    )

    back = incoherence.turn_weight_back(turned)
    torch.testing.assert_close(back, weight.bfloat16().float(), rtol=0, atol=1e-5)
    assert back.is_contiguous()


@pytest.mark.numeric
def test_a_hessian_keeps_the_error_of_the_output():
    weight, x = torch.randn(24, 36), torch.randn(100, 36)
    hessian = x.T @ x

    turned, weight = incoherence.turn_hessian(hessian), incoherence.turn_weight(weight)
    torch.testing.assert_close(
        (weight @ turned * weight).sum(),
        ((x @ incoherence.turn_weight_back(weight).T) ** 2).sum(),
        rtol=1e-5,
        atol=0,
    )


def test_an_outlier_is_spread_and_square_matrices_have_two_rotations():
    weight = torch.zeros(64, 576)
    weight[3, 5] = 1
    assert incoherence.turn_weight(weight).abs().max() < 0.01
    assert incoherence.turn_weight(torch.eye(64)).abs().max() < 0.6


def test_the_signs_are_these_in_all_versions():
    assert incoherence.signs(8, "in").tolist() == [1, -1, 1, -1, -1, -1, -1, 1]
    assert incoherence.signs(576, "in").mean().abs() < 0.15
