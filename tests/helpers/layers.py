"""Single layers with inputs, and what one-shot methods make of them."""

import torch

from baselines.sparsegpt import prune_
from methods.pruning.hessian import add_gram, inverse_factor, symmetric


def first_block(model, job):
    """Weight and inputs of each target in the first block, before anything is pruned."""
    found = {}
    handles = []
    for name in [t for t in job.targets if ".layers.0." in t]:
        module = model.get_submodule(name)
        handles.append(
            module.register_forward_pre_hook(
                lambda m, args, name=name: found.__setitem__(name, (m.weight.clone(), args[0].flatten(0, 1)))
            )
        )
    with torch.no_grad():
        model(job.calibration)
    for handle in handles:
        handle.remove()
    assert len(found) == 7
    return found


def error(got, weight, x):
    return float((x @ (got - weight).T).square().sum() / (x @ weight.T).square().sum())


def layer(out=24, width=64, tokens=256, seed=0):
    """Return a weight, and correlated inputs with unequal norms."""
    torch.manual_seed(seed)
    mix = torch.eye(width) + torch.randn(width, width) / width**0.5
    return torch.randn(out, width) / width**0.5, torch.randn(tokens, width) @ mix * torch.rand(width).add(0.5)


def pruned(weight, x, pattern, block=128, damping=0.01):
    got = weight.clone()
    factor, _ = inverse_factor(symmetric(add_gram(x, None)) * 2 / len(x), damping)
    prune_(got, factor, pattern, block)
    return got


NEAR = 128 * torch.finfo(torch.float32).eps
"""Scores this close, float32 may order either way: a sum of the squares of 96 tokens is off by at most 48 roundings after
its root, one of 64 weights by 64, the inputs themselves, two layers deep, by 2, the products by one each."""
