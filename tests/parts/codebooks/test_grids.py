"""Grids of one weight and of pairs: nearest points by brute force, and centroids of their cells."""

import pytest
import torch

from bench.parts.codebooks import higgs
from bench.parts.codebooks.gaussian import GaussianCodec
from bench.parts.codebooks.higgs import HiggsCodec

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("width", [2, 3, 4])
def test_points_of_one_weight_are_nearest_and_means_of_their_cells(width):
    codec = GaussianCodec(width, (1, 1))
    points = codec.vectors(torch.arange(2**width).unsqueeze(1), {})
    x = torch.special.ndtri((torch.arange(40_000) + 0.5) / 40_000).unsqueeze(1)

    codes = codec.nearest(x, {})

    assert torch.equal(codes.long(), (x - points.T).abs().argmin(1, keepdim=True))
    for code, point in enumerate(points):
        assert abs(x[codes == code].mean() - point) < 2e-3


@pytest.mark.parametrize("width", [2, 3])
def test_pairs_are_nearest_and_means_of_their_cells(width):
    codec = HiggsCodec(width, (2, 2))
    tables = codec.tables(torch.device("cpu"))
    x = torch.randn(40_000, 2)

    codes = codec.nearest(x, tables)

    points = codec.vectors(codes, tables)
    grid = tables["grid"].float()
    distances = (x.double()[:, None] - grid.double()).square().sum(-1)
    torch.testing.assert_close(
        (x - points).double().square().sum(1), distances.amin(1), rtol=1e-4, atol=1e-6
    )
    assert (x - points).square().mean() < {2: 0.1095, 3: 0.0315}[width]
    assert len(grid) == 4**width == len(grid.unique(dim=0))
    for point in grid[:6]:
        own = x[(points == point).all(1)]
        assert (own.mean(0) - point).abs().max() < 0.06
    assert higgs.grid(width) is higgs.grid(width)
