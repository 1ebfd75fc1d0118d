import pytest
import torch

from methods.workshop.transforms.hadamard import fix_mean, hadamard, random_rotation


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 64, 576, 640])
def test_a_hadamard_matrix_has_ones_and_orthogonal_rows(order):
    matrix = hadamard(order)
    assert torch.equal(matrix.abs(), torch.ones(order, order, dtype=torch.float64))
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))
    assert {hadamard(unknown) for unknown in (3, 6, 10, 92)} == {None}


@pytest.mark.parametrize("width", [8, 10])
def test_a_rotation_is_orthogonal_and_follows_its_generator(width):
    draws = [random_rotation(width, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    eye = torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(draws[0] @ draws[0].T, eye, rtol=0, atol=1e-12)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_rotation_that_fixes_the_mean_commutes_with_layer_norm():
    matrix = fix_mean(random_rotation(7, torch.Generator().manual_seed(0)))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    norm = torch.nn.LayerNorm(8, elementwise_affine=False, dtype=torch.float64)
    torch.testing.assert_close(norm(x @ matrix), norm(x) @ matrix, rtol=0, atol=1e-12)
    assert fix_mean(torch.empty(7, 7, dtype=torch.float64, device="meta")).is_meta
