"""Linears that transformers holds in another way: Conv1D of GPT-2, and one tensor for all experts
of a mixture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from methods.contract.errors import UserError
from methods.contract.method import Constants
from methods.model.constant_experts import OUTPUTS
from methods.model.families import FAMILIES, Family


class Expert(nn.Module):
    """One expert: its first linear, a gate, its second linear."""

    def __init__(self, linears: dict[str, nn.Linear], gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._first, self._second = linears
        self._gate = gate
        for name, linear in linears.items():
            setattr(self, name, linear)

    @property
    def first(self) -> nn.Module:
        """The linear that receives the input of the expert."""
        return self.get_submodule(self._first)

    def forward(self, x: Tensor) -> Tensor:
        """x: [tokens, hidden], those that the router sends here."""
        out: Tensor = getattr(self, self._second)(self.gated(self.first(x)))
        return out

    def gated(self, x: Tensor) -> Tensor:
        """Return the units. x: [tokens, outputs of the first linear]."""
        return self._gate(x)


class ConstantExpert(nn.Module):
    """An expert whose output is the same vector for all tokens.

    The vector is no buffer: the file of the weights does not have it, and a block that is streamed
    keeps it while its weights come and go.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self._value = value

    def forward(self, x: Tensor) -> Tensor:
        """x: [tokens, hidden]."""
        return self._value.expand(len(x), -1)


class WiderRouter(nn.Module):
    """A router with more rows, after those of its parameters. They are no buffers, as in
    `ConstantExpert`."""

    def __init__(self, router: nn.Module, rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        # In a list, so that it is no submodule, and its parameters keep their names.
        self._router = [router]
        self._rows = rows
        for name, parameter in router.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, hidden: Tensor) -> Any:
        whole = {}
        for name, parameter in self.named_parameters():
            whole[name] = torch.cat([parameter, self._rows[name].to(parameter)])
        return functional_call(self._router[0], whole, (hidden,))


def attach_constants(model: nn.Module, constants: Constants) -> None:
    """Give the blocks of a model constants in place of removed experts, numbered after the experts
    that are left. Without constants do nothing: the model may be of any family."""
    if not constants:
        return
    family = FAMILIES[model.config.model_type]  # type: ignore[union-attr, index]
    for index, named in constants.items():
        block = model.get_submodule(f"{family.blocks}.{index}")
        found = experts_of(block)
        assert found
        found[1].extend(ConstantExpert(value) for value in named[OUTPUTS])
        router = block.get_submodule(family.dense[0])
        block.set_submodule(family.dense[0], WiderRouter(router, named))


class ExpertList(nn.ModuleList):
    """A replacement for transformers' experts: the same sums, expert by expert."""

    all_tokens = False
    """True to run every expert on every token. The output is the same, and the linears see more
    inputs."""
    tells_gates = False
    """True to give the linears of an expert the router's weights of its tokens, for observers."""

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """hidden: [tokens, hidden]; chosen: int [tokens, k], experts of each token; weights:
        [tokens, k], of each."""
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self):
            place, token = routed_to(number, chosen)
            if self.tells_gates:
                tell_gates(expert, weights[token, place])
            if self.all_tokens:
                y = expert(hidden)[token]
            # An expert without tokens has gradients of 0, not none.
            elif len(token) or torch.is_grad_enabled():
                y = expert(hidden[token])
            else:
                continue
            out.index_add_(0, token, (y * weights[token, place, None]).to(out.dtype))
        return out


def routed_to(number: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places in `chosen` [tokens, k] of an expert's tokens, and these tokens: int64 [n],
    [n]."""
    place, token = torch.where(torch.eq(chosen.T, number))
    return place, token


def tell_gates(expert: nn.Module, gates: Tensor) -> None:
    """Give the linears of an expert the router's weights of the tokens that it runs on next."""
    for linear in expert.children():
        linear.gates = gates


def experts_of(block: nn.Module) -> tuple[str, ExpertList] | None:
    """Return the experts of a block and their name in it, or None."""
    return next(((name, m) for name, m in block.named_modules() if isinstance(m, ExpertList)), None)


def stores_in_out(module: nn.Module) -> bool:
    """Return whether a module is a Conv1D of transformers, whose weight is [in, out] (parametrized
    or not)."""
    return type(module).__name__.endswith("Conv1D")


def unfold(model: nn.Module) -> nn.Module:
    """Turn each Conv1D and each [experts, ...] tensor of a model into linears, in place. Other
    models do not change.

    Weights that are stored [experts, out, in] stay views. Refuse a Conv1D that is parametrized
    already.
    """
    config: Any = model.config
    family = FAMILIES.get(config.model_type)
    if not family or not (family.experts or family.transposed):
        return model
    transposed = family.linears if family.transposed else ()
    for block in model.get_submodule(family.blocks).children():
        for name in transposed:
            conv = block.get_submodule(name)
            if stores_in_out(conv):
                if parametrize.is_parametrized(conv):
                    raise UserError(
                        f"{name} is a Conv1D: call methods.model.experts.unfold(model) before the "
                        "method"
                    )
                weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
                linear = _linear(
                    weight.detach().T.contiguous(), bias.detach(), weight.requires_grad
                )
                block.set_submodule(name, linear)
        if family.experts and not experts_of(block):
            fused = block.get_submodule(family.experts.path)
            block.set_submodule(family.experts.path, _unfolded(fused, family))
    return model


def _linear(weight: Tensor, bias: Tensor | None, requires_grad: bool) -> nn.Linear:
    """Return a linear with these parameters. weight: [out, in]."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=requires_grad)
    return linear


def _unfolded(fused: Any, family: Family) -> ExpertList:
    assert family.experts is not None
    weights = {name: getattr(fused, name) for name in family.experts.linears}
    biases = {}
    if family.experts.biased:
        biases = {name: getattr(fused, f"{name}_bias") for name in weights}
    for name in (*weights, *(f"{name}_bias" for name in biases)):
        delattr(fused, name)
    experts = ExpertList()
    for number in range(len(next(iter(weights.values())))):
        linears = {}
        for name, stacked in weights.items():
            weight = stacked.detach()[number]
            if family.experts.transposed:
                weight = weight.T.contiguous()
            bias = biases[name].detach()[number] if name in biases else None
            linears[name] = _linear(weight, bias, stacked.requires_grad)
        experts.append(Expert(linears, fused._apply_gate))
    return experts


class Stacked(NamedTuple):
    """The place of an expert's tensor in transformers' format: an entry of one tensor for all
    experts."""

    name: str
    number: int
    transposed: bool

    def entry(self, tensor: Tensor) -> Tensor:
        return tensor.T if self.transposed else tensor


def stacked_as(name: str, family: Family | None) -> Stacked | None:
    """Return the place of an expert's tensor, or None if the tensor belongs to no expert."""
    if not family or not family.experts:
        return None
    path, linears = re.escape(family.experts.path), "|".join(family.experts.linears)
    match = re.match(rf"(.+\.{path})\.(\d+)\.({linears})\.(weight|bias)$", name)
    if not match:
        return None
    prefix, number, linear, kind = match.groups()
    is_weight = kind == "weight"
    stored = f"{prefix}.{linear}" if is_weight else f"{prefix}.{linear}_bias"
    return Stacked(stored, int(number), is_weight and family.experts.transposed)


def fold(
    names: Iterable[str], read: Callable[[str], Tensor], family: Family | None
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model as transformers stores them: [in, out] for GPT-2, [experts, ...]
    for experts.

    names: names of tensors of a model or of some of its blocks; read: returns a tensor by its name.
    """
    stacks: dict[str, dict[int, tuple[str, Stacked]]] = {}
    for name in names:
        where = stacked_as(name, family)
        if where:
            stacks.setdefault(where.name, {})[where.number] = (name, where)
        elif family and family.turns(name):
            yield name, read(name).T.contiguous()
        else:
            yield name, read(name)
    for stored, members in stacks.items():
        yield (
            stored,
            torch.stack([where.entry(read(name)) for _, (name, where) in sorted(members.items())]),
        )
