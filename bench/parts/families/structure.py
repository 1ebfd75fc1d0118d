"""Parts of an architecture that can be removed: its width from its shapes, and its flow from one
forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from methods.contract.axes import mentions
from methods.model.families import Family, Flow, Shape, Width

QUERIES, GROUPS = "num_attention_heads", "num_key_value_heads"
TRANSFORMS_ONLY = (
    "values, units and factor of its flow, which only transforms read: see [llama.flow]"
)
are_close = partial(torch.allclose, rtol=1e-5, atol=1e-6)


def find_width(family: Family) -> tuple[Width | None, str]:
    """Return the keys of config.json that count units and heads, and what was left out and why."""
    hidden = _hidden(family)
    inputs = {family.tensors[f"{linear}.weight"][1] for linear in family.linears}
    units = [
        size for size in inputs if isinstance(size, str) and size.isidentifier() and size != hidden
    ]
    if len(units) != 1:
        return None, "width, because no value of its config counts the inputs of one linear alone"
    width, sizes = Width(units[0]), _sizes(family.tensors)
    heads = [key for key in (QUERIES, GROUPS) if _mention(sizes, key)]
    if len(heads) < 2 or not _mention(sizes, "head_dim"):
        why = f"heads of its width, because its shapes do not depend on {GROUPS} and head_dim"
        return width, why
    for name, shape in family.tensors.items():
        if name.rpartition(".")[0] not in family.linears and any(
            mentions(shape[0], key) for key in heads
        ):
            return width, f"heads of its width, because {name} spans all heads"
    return Width(units[0], tuple(heads)), ""


@torch.no_grad()
def find_flow(model: nn.Module, family: Family, tokens: Tensor) -> tuple[Flow | None, str]:
    """Return which linears of the first block read which norm, and which write the residual stream;
    and what was left out.

    tokens: int64 [sequences, seqlen], of one forward pass.
    """
    hidden, block = _hidden(family), model.get_submodule(f"{family.blocks}.0")
    norms = [
        name.removesuffix(".weight")
        for name in _norm_weights(family.tensors, hidden)
        if _has(block, name)
    ]
    outer = {**family.outer, **family.tensors}
    finals = [
        name.removesuffix(".weight") for name in _norm_weights(outer, hidden) if _has(model, name)
    ]
    if not norms or len(finals) != 1:
        return (
            None,
            "flow, because it has no norms of the residual stream, or several after the blocks",
        )
    inputs, outputs = _calls(model, block, (*norms, *family.linears), tokens)

    written = [outputs[linear] for linear in family.linears]
    after = [norm for norm in norms if _is_among(inputs[norm], written)]
    before = [norm for norm in norms if norm not in after]
    readers: dict[str, list[str]] = {norm: [] for norm in before}
    stream = inputs[""]
    streams = [stream := stream + outputs[norm] for norm in after]
    writers = []
    for linear in family.linears:
        norm = next((norm for norm in before if _same(inputs[linear], outputs[norm])), "")
        if norm:
            readers[norm].append(linear)
        elif any(_same(inputs[linear], each) for each in (inputs[""], *streams)):
            readers.setdefault("", []).append(linear)
        else:
            writers.append(linear)
    if not all(readers.values()) or not all(
        family.tensors[f"{w}.weight"][0] == hidden for w in writers
    ):
        return (
            None,
            "flow, because a norm or a linear of a block reads neither a norm nor the residual "
            "stream",
        )
    final = model.get_submodule(finals[0])
    return Flow(
        final=finals[0],
        writers=tuple(writers),
        norms={norm: tuple(names) for norm, names in readers.items()},
        after=tuple(after),
        mean=_subtracts_mean(final, inputs[""]),
        offset=_offset(final, inputs[""]),
    ), TRANSFORMS_ONLY


def _hidden(family: Family) -> object:
    """Return the size of the residual stream: the inputs of the first linear of a block."""
    return family.tensors[f"{family.linears[0]}.weight"][1]


def _sizes(tensors: Mapping[str, Shape]) -> list[object]:
    """Return all sizes of tensors, those of fused linears one by one."""
    sizes: list[object] = []
    for shape in tensors.values():
        for size in shape:
            if isinstance(size, tuple):
                sizes += size
            else:
                sizes.append(size)
    return sizes


def _mention(sizes: Iterable[object], key: str) -> bool:
    return any(mentions(size, key) for size in sizes)


def _is_among(states: Tensor, others: Iterable[Tensor]) -> bool:
    return any(_same(states, other) for other in others)


def _norm_weights(tensors: Mapping[str, Shape], hidden: object) -> list[str]:
    return [
        name for name, shape in tensors.items() if shape == (hidden,) and name.endswith(".weight")
    ]


def _has(module: nn.Module, name: str) -> bool:
    return name in dict(module.named_parameters())


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(are_close(one, other))


def _calls(
    model: nn.Module, block: nn.Module, names: tuple[str, ...], tokens: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the inputs and outputs of modules of a block in a forward pass, and under "" the input
    of the block."""
    inputs, outputs = dict[str, Tensor](), dict[str, Tensor]()

    def record(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[name], outputs[name] = args[0].flatten(0, -2), output.flatten(0, -2)

    def record_block(
        module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]
    ) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        inputs[""] = states.flatten(0, -2)

    hooks = [
        block.get_submodule(name).register_forward_hook(partial(record, name)) for name in names
    ]
    hooks.append(block.register_forward_pre_hook(record_block, with_kwargs=True))
    try:
        model(input_ids=tokens, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs, outputs


def _subtracts_mean(norm: nn.Module, states: Tensor) -> bool:
    exact, states = copy.deepcopy(norm).double(), states.double()
    return _same(exact(states + 1), exact(states))


def _offset(norm: nn.Module, states: Tensor) -> int:
    """Return what a norm adds to its weight, 0 or 1: a weight of 0 gives 0 unless it adds 1."""
    plain = copy.deepcopy(norm)
    for parameter in plain.parameters():
        parameter.zero_()
    return int(bool(plain(states).any()))
