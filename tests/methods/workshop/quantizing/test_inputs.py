"""Inputs that are rounded while the model runs."""

import pytest
import torch

from methods.workshop.quantizing.grids import Microscaling, NvFloat4, group_size, round_
from methods.workshop.quantizing.inputs import INPUT_FORMATS


@pytest.mark.parametrize("form", INPUT_FORMATS)
@pytest.mark.parametrize("width", [24, 40, 9])
def test_inputs_of_any_width_are_rounded(form, width):
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    got = INPUT_FORMATS[form](x)
    assert got.shape == x.shape and 0 < float((got - x).norm() / x.norm()) < 0.2


@pytest.mark.parametrize(
    ("form", "grid", "most"), [("mxfp4", Microscaling(4), 32), ("nvfp4", NvFloat4(), 16)]
)
def test_groups_of_inputs_are_as_large_as_those_of_weights(form, grid, most):
    x = torch.randn(1, 24, generator=torch.Generator().manual_seed(0))
    weight = x.clone()
    round_(weight, grid, group_size(24, None, most, form))
    torch.testing.assert_close(INPUT_FORMATS[form](x), weight)
