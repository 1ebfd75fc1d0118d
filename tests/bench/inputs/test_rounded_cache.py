"""Keys and values that are rounded while a model runs."""

import pytest
import torch
from transformers import DynamicCache

from bench.inputs.rounded_cache import round_cache, rounded
from bench.measures.size import cache_bytes
from helpers import models
from methods.contract.errors import UserError


@pytest.mark.parametrize(("bits", "width", "group"), [(8, 16, 16), (4, 64, 32), (4, 48, 16)])
def test_each_value_has_few_levels_with_zero_among_them(bits, width, group):
    x = torch.randn(2, 3, 5, width, generator=torch.Generator().manual_seed(0))
    got = rounded(x, bits)
    assert torch.equal(rounded(x[:, :, 2:3], bits), got[:, :, 2:3])  # no token depends on another
    assert float((got - x).abs().max()) <= float(x.abs().max()) / 2 ** (bits - 1)
    for part in got.unflatten(-1, (-1, group)).flatten(0, -2):
        steps = part / part.abs()[part != 0].min()
        assert len(part.unique()) <= 2**bits
        assert steps.isfinite().all()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_window_gives_what_decoding_with_a_rounded_cache_gives(bits):
    """Token by token, with transformers' cache, in which keys and values are rounded once, as they
    are written."""
    model = models.build("llama", attn_implementation="sdpa")
    ids = torch.randint(3, 64, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model(ids, use_cache=False).logits
        round_cache(model, bits)
        whole, cache, steps = model(ids, use_cache=False).logits, DynamicCache(), []
        for token in ids[0]:
            steps.append(model(token.view(1, 1), None, None, cache, use_cache=True).logits[:, -1])
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-4, atol=1e-4)
    change = float((whole - exact).norm() / exact.norm())
    assert 0 < change < (0.02 if bits == 8 else 0.3)


def test_another_attention_is_refused():
    model = models.build("llama", attn_implementation="eager")
    with pytest.raises(UserError, match="kv8 needs the attention `sdpa`"):
        round_cache(model, 8)


def test_bytes_of_a_token():
    """Keys and values of four layers and three heads of 64 values: a scale for a head in int8, for
    32 values in int4."""
    config = {"num_hidden_layers": 4, "num_attention_heads": 9}
    config |= {"num_key_value_heads": 3, "hidden_size": 576}
    assert cache_bytes(config, 8) == 2 * 4 * 3 * (64 + 2)
    assert cache_bytes(config, 4) == 2 * 4 * 3 * (32 + 2 * 2)
