"""Q6_K without llama.cpp."""

import pytest
import torch

from bench.parts.gguf.gguf_embeddings import q6_k


def naive(block):
    """Q6_K of 256 numbers, one at a time: float16 of all, int8 of 16, 6 bits of one."""
    scales = []
    for start in range(0, 256, 16):
        group = block[start : start + 16]
        farthest = max(group, key=abs)
        scales.append(farthest / -32)
    shared = torch.tensor(max(scales, key=abs) / -128).half().item()
    out = []
    for start, scale in zip(range(0, 256, 16), scales, strict=True):
        small = max(-128, min(127, round(scale / shared)))
        step = small * shared
        for x in block[start : start + 16]:
            out.append(max(-32, min(31, round(x / step))) * step if step else 0.0)
    return out


@pytest.mark.numeric
def test_blocks_are_those_of_a_naive_rounding():
    weight = torch.randn(3, 512, generator=torch.manual_seed(0))
    weight[1, :16] = 0
    stored = q6_k(weight)
    assert stored.codec.type == "Q6_K"
    assert stored.parts["blocks"].shape == (3, 2 * 210)
    want = [naive(block.tolist()) for block in weight.view(-1, 256)]
    torch.testing.assert_close(stored.decode(), torch.tensor(want).view(3, 512), atol=1e-6, rtol=0)
    error = (stored.decode() - weight).norm() / weight.norm()
    assert error < 0.025


@pytest.mark.parametrize(("width", "kind"), [(256, "Q6_K"), (128, "Q8_0")])
def test_zeros_stay_zero(width, kind):
    stored = q6_k(torch.zeros(2, width))
    assert stored.codec.type == kind and not stored.decode().any()
