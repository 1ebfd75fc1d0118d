"""The nearest point of E8 by the vectors that bound its cell, and the codes one by one."""

import itertools

import pytest
import torch

from bench.parts.codebooks import lattice
from bench.parts.codebooks.lattice import LatticeCodec, nearest_e8

pytestmark = pytest.mark.numeric


def relevant():
    """The 240 + 2160 vectors of E8 of squared length 2 and 4, whose halves bound the cell of 0."""
    whole = []
    for place, sign in itertools.product(range(8), (2, -2)):
        whole.append([sign * (i == place) for i in range(8)])
    for size in (2, 4):
        for places in itertools.combinations(range(8), size):
            for signs in itertools.product((1, -1), repeat=size):
                vector = [0] * 8
                for place, sign in zip(places, signs, strict=True):
                    vector[place] = sign
                whole.append(vector)
    half = [v for v in itertools.product((0.5, -0.5), repeat=8) if sum(v) % 2 == 0]
    long = []
    for place, signs in itertools.product(range(8), itertools.product((0.5, -0.5), repeat=8)):
        vector = [3 * s if i == place else s for i, s in enumerate(signs)]
        if sum(vector) % 2 == 0:
            long.append(vector)
    return torch.tensor([*whole, *half, *long], dtype=torch.float64)


def test_no_neighbor_is_nearer_than_the_nearest_point():
    vectors = relevant()
    assert len(vectors) == 240 + 2160
    x = torch.randn(500, 8, dtype=torch.float64) * 3

    point = nearest_e8(x)

    doubled = (2 * point).long()
    assert torch.equal(doubled.double(), 2 * point) and not (point.sum(1) % 2).any()
    assert ((doubled % 2).sum(1) % 8 == 0).all(), "whole and half numbers are mixed"
    distance = (x - point).square().sum(1)
    for neighbor in vectors:
        assert ((x - point - neighbor).square().sum(1) >= distance - 1e-9).all()


def test_all_codes_of_two_bits_are_distinct_points_near_zero():
    codec = LatticeCodec(2, (8, 8))
    codes = torch.cartesian_prod(*[torch.arange(4)] * 8).to(torch.uint8)

    points = codec.vectors(codes, {}) / lattice.STEP[2]

    assert len(points.unique(dim=0)) == 4**8
    assert torch.equal(codec.vectors(codec.nearest(points * lattice.STEP[2], {}), {}),
                       points * lattice.STEP[2])  # fmt: skip
    assert points.norm(dim=1).max() <= 4 + 1e-6  # the covering radius of E8 is 1, of 4 E8 it is 4


def test_points_are_the_nearest_of_all_inside_and_near_it_outside():
    codec = LatticeCodec(2, (8, 8))
    all_points = codec.vectors(torch.cartesian_prod(*[torch.arange(4)] * 8), {})
    x = torch.randn(400, 8)

    got = codec.vectors(codec.nearest(x, {}), {})

    error = (x - got).square().sum(1)
    best = torch.cdist(x, all_points, compute_mode="donot_use_mm_for_euclid_dist").amin(1) ** 2
    inside = (nearest_e8(x / lattice.STEP[2]) * lattice.STEP[2] == got).all(1)
    assert inside.float().mean() > 0.7
    torch.testing.assert_close(error[inside], best[inside], rtol=1e-5, atol=1e-6)
    assert error.mean() < 1.06 * best.mean()
