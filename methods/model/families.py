"""The supported architectures, read from families.toml. Needs no torch.

No code depends on the name of an architecture: an entry in that file is all that a new one needs.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any

from methods.contract.errors import UserError

Size = int | str
"""A whole number, or arithmetic on values of a config: "num_attention_heads * head_dim"."""
Shape = tuple[Size | tuple[Size, ...], ...]
"""Shape of a tensor. A tuple in place of a size: the sizes of linears that are fused along this
dimension."""


@dataclass(frozen=True)
class Experts:
    """The experts of a block. Each of their linears is a target, whose name is
    `path.NUMBER.linear`."""

    path: str
    """Path of the module with the experts in a block."""
    count: str
    """Key of config.json with the number of experts."""
    linears: Mapping[str, Shape]
    """Shapes [out, in] of the linears of an expert: the first, and the second, which follows a
    gate."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of a linear's fused parts in files that store the linears of each expert."""
    transposed: bool = False
    """True if the tensor of all experts is [experts, in, out]."""
    biased: bool = False

    def names(self, count: int) -> Iterator[str]:
        """Yield the linears in a block with `count` experts."""
        yield from (
            f"{self.path}.{number}.{linear}" for number in range(count) for linear in self.linears
        )


@dataclass(frozen=True)
class Flow:
    """The modules of a block that write and read one vector, for transforms that keep the
    function."""

    final: str
    """The norm before the head, by its full name."""
    writers: tuple[str, ...]
    """Linears whose outputs are added to the residual stream."""
    norms: Mapping[str, tuple[str, ...]]
    """For each norm, the linears that read its output. "": they read the residual stream itself."""
    after: tuple[str, ...] = ()
    """Norms of what is added to the residual stream. They allow no rotation of it."""
    mean: bool = False
    """True if norms subtract the mean (LayerNorm)."""
    offset: int = 0
    """Number that a norm adds to its weight."""
    values: tuple[str, ...] = ()
    """The linear that writes the values of an attention, and the one that reads them, head by
    head."""
    units: tuple[str, ...] = ()
    """The linears that write the inner units of an MLP, and last the one that reads them."""
    factor: str = ""
    """The linear of `units` whose output is a factor of a unit."""


@dataclass(frozen=True)
class Width:
    """Keys of config.json with the numbers of what can be removed within a block."""

    units: str
    """Number of inner units of an MLP."""
    heads: tuple[str, ...] = ()
    """Number of heads of the queries, and of the keys and values. Empty if the model's other sizes
    decide them, or if a norm spans all heads."""


@dataclass(frozen=True)
class Family:
    """The structure of the models of one architecture."""

    blocks: str
    """Path of the decoder blocks."""
    linears: tuple[str, ...]
    """Names of the linears of a block that are pruned, in order."""
    transposed: bool = False
    """True if files have the weights of `linears` as [in, out] (GPT-2's Conv1D). In memory they are
    [out, in]."""
    tied: bool = False
    """True if the head is the embedding by default."""
    layers: str = "num_hidden_layers"
    """Key of config.json with the number of blocks."""
    native: bool = False
    """True if published models name remote code. It is never run, because transformers has the
    architecture."""
    positions: str = ""
    """Key of config.json with the number of learned positions; empty if positions are not
    learned."""
    logits: Mapping[str, str] = field(default_factory=dict)
    """Steps after the head, and their keys of config.json: `cap` (cap * tanh(x / cap)) or `divisor`
    (x / divisor)."""
    whole: tuple[str, ...] = ()
    """Fractions of config values that must be whole numbers."""
    defaults: Mapping[str, Size] = field(default_factory=dict)
    """Defaults of values that config.json may leave out."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Defaults of config values that decide whether tensors exist."""
    outer: Mapping[str, Shape] = field(default_factory=dict)
    """Tensors outside the blocks by full name, the embedding first."""
    block: Mapping[str, Shape] = field(default_factory=dict)
    """Tensors of a block by name."""
    when: Mapping[str, Mapping[str, Shape]] = field(default_factory=dict)
    """Tensors that exist if a condition holds, by condition."""
    dense: tuple[str, ...] = ()
    """Names of the matrices of a block that are not pruned: routers."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Parts of names in published files, and their names in the model."""
    experts: Experts | None = None
    flow: Flow | None = None
    """None if no transform is known for it."""
    width: Width | None = None
    """None if no units and heads can be removed."""

    @property
    def base(self) -> str:
        """Prefix of tensor names that some published files leave out."""
        return self.blocks.split(".")[0] + "."

    def block_of(self, name: str) -> int | None:
        """Return the index of the block that a tensor is in, or None."""
        match = re.match(rf"{re.escape(self.blocks)}\.(0|[1-9][0-9]{{0,5}})(\.|$)", name)
        return int(match[1]) if match else None

    def turns(self, name: str) -> bool:
        """Return whether files store a tensor as [in, out] that is [out, in] in memory."""
        inside = name.removeprefix(f"{self.blocks}.{self.block_of(name)}.").removesuffix(".weight")
        return self.transposed and inside in self.linears

    def input_of(self, name: str) -> tuple[str, str]:
        """Return the block or expert of a target, and a key of the target's input within it.

        The linears of a module share one input, except the last, whose input is the output of the
        others.
        """
        unit, linears = f"{self.blocks}.{self.block_of(name)}", self.linears
        if self.experts and (
            match := re.match(rf"{re.escape(f'{unit}.{self.experts.path}')}\.[0-9]+", name)
        ):
            unit, linears = match[0], tuple(self.experts.linears)
        linear = name.removeprefix(f"{unit}.")
        module = linear.rpartition(".")[0]
        last = [other for other in linears if other.rpartition(".")[0] == module][-1]
        return unit, linear if linear == last else f"{module}."

    def size(self, size: Size, config: Mapping[str, Any]) -> int:
        """Compute a size for a config, with the family's defaults of values that it leaves out."""

        def value(name: str) -> int:
            known = config.get(name)
            return self.size(self.defaults[name], config) if known is None else known

        if isinstance(size, int):
            return size
        return compute(size, value)

    @property
    def tensors(self) -> dict[str, Shape]:
        """Shapes of the tensors of a block, also of those that exist under a condition."""
        return {
            name: shape
            for table in (self.block, *self.when.values())
            for name, shape in table.items()
        }

    @property
    def fused(self) -> dict[str, int]:
        """The tensors that fuse linears, and the fused dimension of the stored tensor."""
        out: dict[str, int] = {}
        for name, shape in self.tensors.items():
            for i, size in enumerate(shape):
                if isinstance(size, tuple):
                    out.setdefault(name, i)
        return out


def read_families(text: str) -> dict[str, Family]:
    """Read families by model_type from the text of families.toml. Raise UserError if the text is
    not valid."""
    try:
        entries = tomllib.loads(text)
        return {kind: _family(_expanded(entries, kind)) for kind in entries}
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(
            f"invalid family entry ({fault}): see docs/models.md for the fields"
        ) from None


def _expanded(entries: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return an entry with the fields that it takes over from others."""
    own = dict(entries[kind])
    if "like" not in own:
        return own
    out = _expanded(entries, own.pop("like"))
    left_out = own.pop("without", ())
    for table in ("flags", "when", "block", "outer"):
        out[table] = {k: v for k, v in out.get(table, {}).items() if k not in left_out}
    for key, value in own.items():
        out[key] = {**out.get(key, {}), **value} if isinstance(value, dict) else value
    return out


def _family(entry: Mapping[str, Any]) -> Family:
    known = {f.name for f in fields(Family)}
    unknown = sorted(set(entry) - known)
    if unknown:
        raise KeyError(f"{unknown[0]!r} is no field")
    values = {key: frozen(value) for key, value in entry.items()}
    if "experts" in values:
        values["experts"] = Experts(**values["experts"])
    for key, kind in (("flow", Flow), ("width", Width)):
        if key in values:
            values[key] = kind(**values[key])
    return Family(**values)


def frozen(value: Any) -> Any:
    """Return a value with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: frozen(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(map(frozen, value))
    return value


@cache
def _parse(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def compute(text: str, value: Callable[[str], int]) -> int:
    """Compute an arithmetic expression or a condition. value: returns a value by name.

    Raises:
        ValueError: the text has more than sums, products, quotients, `and`, `not` and `!=`.
    """

    def visit(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name):
            return value(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not visit(node.operand)
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            return all(map(visit, node.values))
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.NotEq):
            return visit(node.left) != visit(node.comparators[0])
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](visit(node.left), visit(node.right))
        raise ValueError(f"invalid expression in a family: {text!r}")

    return visit(_parse(text))


_OPERATORS: Mapping[Any, Callable[[int, int], int]] = {
    ast.Add: int.__add__,
    ast.Mult: int.__mul__,
    ast.FloorDiv: int.__floordiv__,
}


FAMILIES = read_families(resources.files("methods.model").joinpath("families.toml").read_text())
