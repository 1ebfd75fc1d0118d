"""Searched scales against all scales that are tried, and grids that they leave as they are."""

import copy

import pytest
import torch

from bench.catalog.choice import build
from bench.catalog.entries import QUANTIZERS
from bench.parts.codebooks.searched import FACTORS, FourOverSix, Int3Searched, SearchedInteger
from bench.quantizers.gptq import Int3Gptq
from helpers import models
from methods.model.targets import dense_weight
from methods.workshop.quantizing.grids import Integer, NvFloat4

NAMES = ["int2-searched", "int3-searched", "int4-searched", "nvfp4-46"]


@pytest.mark.numeric
def test_no_scale_that_is_tried_has_a_lower_error():
    groups, importance = torch.randn(6, 4, 16), torch.rand(4, 16)

    found = SearchedInteger(3, importance).scale(groups)

    plain = Integer(3)
    top = plain.scale(groups)
    errors = []
    for factor in FACTORS:
        scale = (top * factor).bfloat16().float()
        codes = (groups / scale).round().clamp(-4, 3)
        errors.append((importance * (codes * scale - groups) ** 2).sum(-1, keepdim=True))
    scale = (top * torch.tensor(FACTORS)[torch.stack(errors).argmin(0)]).bfloat16().float()
    assert torch.equal(found, scale)
    assert (found < top).float().mean() > 0.5


@pytest.mark.numeric
def test_the_largest_weight_becomes_four_where_that_is_better():
    groups = torch.randn(200, 16)
    grid = FourOverSix().of(groups)

    points = grid.snap(groups, grid.scale(groups)) / grid.scale(groups)

    largest = points.abs().amax(-1)
    assert set(largest.tolist()) <= {4.0, 6.0} and (largest == 4).any() and (largest == 6).any()
    plain = NvFloat4().of(groups)
    error = (grid.snap(groups, grid.scale(groups)) - groups).square().sum()
    assert error < 0.97 * (plain.snap(groups, plain.scale(groups)) - groups).square().sum()

    exact = torch.tensor([[4.0, -3, 2, 1.5, -1, 0.5, 0, 4]])
    grid = FourOverSix().of(exact)
    assert torch.equal(grid.snap(exact, grid.scale(exact)), exact)


@pytest.mark.parametrize("name", NAMES)
def test_stored_weights_are_those_of_the_model_and_the_pattern_holds(name, tmp_path):
    model = models.build("llama")
    job = models.job_for(model)
    for target in job.targets:
        weight = dense_weight(model.get_submodule(target))
        weight.masked_fill_(~job.pattern.keep(weight.abs()), 0)

    outcome = build(QUANTIZERS[name], name, {}).apply(model, job)

    for target, one in models.store(outcome.stored, tmp_path, "2:4").items():
        weight = dense_weight(outcome.model.get_submodule(target))
        assert torch.equal(one.decode(), weight) and job.pattern.violations(weight) == 0


def test_searched_scales_lower_the_error_of_the_outputs():
    model = models.build("llama")
    job = models.job_for(model, "dense")

    searched = Int3Searched().apply(copy.deepcopy(model), job).notes["reconstruction_error"]
    plain = Int3Gptq().apply(model, job).notes["reconstruction_error"]

    assert sum(searched.values()) < 0.95 * sum(plain.values())
