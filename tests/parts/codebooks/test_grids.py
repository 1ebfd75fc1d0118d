"""Grids of pairs: nearest points by brute force, and centroids of their cells."""

import pytest
import torch

from bench.parts.codebooks import higgs
from bench.parts.codebooks.higgs import HiggsCodec

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("width", [2, 3])
def test_pairs_are_nearest_and_means_of_their_cells(width):
    codec, weight = HiggsCodec(width, (5000, 16)), torch.randn(5000, 16)

    parts = codec.encode(weight)

    pairs = [w.unflatten(0, (-1, 2)).transpose(1, 2) for w in (weight, codec.points(parts))]
    x, points = (pair.reshape(-1, 2) for pair in pairs)
    x, grid = x / parts["scales"].float(), parts["grid"].float()
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
