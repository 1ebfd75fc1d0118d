"""Tables of weighted means: against k-means written naively, and what is stored."""

import pytest
import torch

from bench.parts.codebooks.lut import ROUNDS, Lut3, Lut4, weighted_means
from helpers import models
from methods.model.targets import dense_weight


@pytest.mark.numeric
def test_the_means_are_those_of_lloyds_algorithm():
    values, importance = torch.randn(3, 200), torch.rand(3, 200)
    importance[:, :20] = 0

    found = weighted_means(values, importance, 8)

    for group in range(3):
        order = values[group].argsort()
        shares = importance[group][order].double().cumsum(0)
        starts = [int((shares < shares[-1] * (i + 0.5) / 8).sum()) for i in range(8)]
        centers = values[group][order][starts].double()
        for _ in range(ROUNDS):
            owners = (values[group].double()[:, None] - centers).abs().argmin(1)
            for i in range(8):
                own = importance[group].double() * (owners == i)
                centers[i] = (own * values[group]).sum() / own.sum()
        torch.testing.assert_close(found[group], centers, rtol=1e-9, atol=1e-9)


@pytest.mark.numeric
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("kind", [Lut3, Lut4])
@pytest.mark.parametrize("pattern", ["dense", "2:4"])
def test_codes_and_tables_give_the_measured_weights(kind, rows, pattern, tmp_path):
    model = models.build("llama")
    job = models.job_for(model, pattern)
    before = {}
    for target in job.targets:
        weight = dense_weight(model.get_submodule(target))
        if pattern != "dense":
            weight.masked_fill_(~job.pattern.keep(weight.abs()), 0)
        before[target] = weight.clone()

    outcome = kind(rows=rows).apply(model, job)

    stored = models.store(outcome.stored, tmp_path, pattern)
    for target, one in stored.items():
        weight = dense_weight(outcome.model.get_submodule(target))
        assert torch.equal(one.decode(), weight) and job.pattern.violations(weight) == 0
        assert (weight - before[target]).norm() < 0.5 * before[target].norm()
        share = 1 if pattern == "dense" else 0.5
        values, others = stored.sizes(target)
        assert values == share * weight.numel() * kind.width / 8
        tables = -(-len(weight) // rows) * 2**kind.width * 2
        assert others == tables + (weight.numel() / 8 if pattern == "2:4" else 0)
