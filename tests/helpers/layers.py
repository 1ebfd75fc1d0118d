"""Single layers with inputs, and what one-shot methods make of them."""

import contextlib
import gc
from dataclasses import replace

import torch

from baselines.sparsegpt import prune_
from helpers.oracles import agree
from methods.workshop.pruning.hessian import add_gram, inverse_factor, symmetric
from methods.workshop.training.compiled import blocks_of


def inputs_of(model, job):
    """Inputs of each target on the calibration tokens, [tokens, in]."""
    seen = {}

    def note(name):
        return lambda _module, args: seen.__setitem__(name, args[0].flatten(0, -2).clone())

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name in job.targets:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(note(name)))
        model(input_ids=job.calibration, use_cache=False)
    return seen


def first_block(model, job):
    """Weight and inputs of each target in the first block, before anything is pruned."""
    first = replace(job, targets=tuple(t for t in job.targets if ".layers.0." in t))
    inputs = inputs_of(model, first)
    assert len(inputs) == 7
    return {t: (model.get_submodule(t).weight.clone(), x) for t, x in inputs.items()}


def check_first_block(model, job, method, naive):
    """Assert that a method makes naive(weight, x) of the first block, with two dead inputs."""
    model.model.layers[0].input_layernorm.weight[[3, 17]] = 0
    dense = first_block(model, job)
    method.apply(model, job)
    for name, (weight, x) in dense.items():
        agree(model.get_submodule(name).weight, naive, weight, x)


def block_calls(model, tokens):
    """Inputs and outputs of each block of a whole forward pass."""
    calls = []

    def note(_module, args, output):
        calls.append((args[0], output[0] if isinstance(output, tuple) else output))

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for block in blocks_of(model):
            hooks.enter_context(block.register_forward_hook(note))
        model(input_ids=tokens, use_cache=False)
    return calls


def live_bytes(*sizes):
    """Return the memory of all tensors, or of those whose storage has one of these sizes."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_meta:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for size in storages.values() if not sizes or size in sizes)


def error(got, weight, x):
    return float((x @ (got - weight).T).square().sum() / (x @ weight.T).square().sum())


def layer(out=24, width=64, tokens=256, seed=0):
    """Return a weight, and correlated inputs with unequal norms."""
    torch.manual_seed(seed)
    mix = torch.eye(width) + torch.randn(width, width) / width**0.5
    weight = torch.randn(out, width) / width**0.5
    return weight, torch.randn(tokens, width) @ mix * torch.rand(width).add(0.5)


def pruned(weight, x, pattern, block=128, damping=0.01):
    got = weight.clone()
    factor, _ = inverse_factor(symmetric(add_gram(x, None)) * 2 / len(x), damping)
    prune_(got, factor, pattern, block)
    return got


NEAR = 128 * torch.finfo(torch.float32).eps
"""Scores this close, float32 may order either way: a sum of the squares of 96 tokens is off by at
most 48 roundings after its root, one of 64 weights by 64, the inputs themselves, two layers deep,
by 2, the products by one each."""
