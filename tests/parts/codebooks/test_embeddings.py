"""Codes of rotated weights as formats of the embedding and of the head."""

import pytest
import torch

from bench.catalog import registry


@pytest.mark.numeric
@pytest.mark.parametrize(("name", "error"), [("tcq3", 0.0196), ("tcq4", 0.0053)])
def test_an_embedding_is_rounded_with_the_error_of_its_code(name, error):
    weight = torch.randn(1024, 40) * torch.rand(1024, 1)

    one = registry.load(registry.lookup("embeddings", name))(weight)

    change = one.decode() - weight
    assert 0.9 * error < change.square().mean() / weight.square().mean() < 1.1 * error
