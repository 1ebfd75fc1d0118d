"""How far float32 may be from a definition in float64, found by moving its inputs."""

import torch

ROUNDINGS = 64
"""Size of the changes of the inputs, in roundings of float32."""


def moved(weight, x):
    """Yield weight [out, in] and inputs [tokens, in] in float64, changed by up to ROUNDINGS."""
    dice = torch.Generator().manual_seed(0)
    far = ROUNDINGS * torch.finfo(torch.float32).eps

    def factor(*shape):
        return far * (2 * torch.rand(shape, generator=dice, dtype=torch.float64) - 1)

    for _ in range(2):
        by = factor(*weight.shape), factor(*x.shape) + factor(1, x.shape[1])
        for sign in (1, -1):
            yield weight.double() * (1 + sign * by[0]), x.double() * (1 + sign * by[1])


def agree(got, oracle, weight, x, *, grid=False):
    """Assert that got is oracle(weight, x) [out, in] up to rounding.

    A row may differ where such a move turns a place of its mask, or of a grid: a near tie. All
    others have the same mask, and weights that are no further off than the moves took them; on a
    grid they are equal.
    """
    want = oracle(weight, x)
    near = torch.stack([oracle(*inputs) for inputs in moved(weight, x)])
    turned = (near - want).abs() > 1e-3 * want.abs() if grid else (near != 0) != (want != 0)
    steady = ~turned.any(0).any(1)
    assert steady.float().mean() >= 0.75, (
        f"{len(steady) - int(steady.sum())} rows of {len(steady)} have a near tie"
    )
    off = 0.0 if grid else float((near - want).abs()[:, steady].max())
    assert torch.equal(got[steady] != 0, want[steady] != 0)
    torch.testing.assert_close(got[steady].double(), want[steady], rtol=0, atol=off)


def largest(score, count, size, near=0.0):
    """Return the mask of the `count` largest of every `size` neighbours of a score, one by one; of
    equal ones the first.

    near: relative distance below which the last that is kept and the first that is not are refused
    as a tie.
    """
    values, keep = score.flatten().tolist(), torch.zeros(score.numel(), dtype=torch.bool)
    for start in range(0, len(values), size):
        order = sorted(range(start, start + size), key=lambda i: (-values[i], i))
        assert not near or values[order[count]] < (1 - near) * values[order[count - 1]]
        keep[order[:count]] = True
    return keep.view(score.shape)
