"""The architectures that the suite knows, as data: families.toml. Needs no torch.

An architecture is taught by an entry there and nowhere else: no code asks for a model's name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any

from methods.errors import UserError

Size = int | str
"""A whole number, or arithmetic on values of a config: "num_attention_heads * head_dim"."""
Shape = tuple[Size | tuple[Size, ...], ...]
"""A tensor's shape. A tuple in place of a size: linears fused along this dimension, each with its size."""


@dataclass(frozen=True)
class Experts:
    """The experts of a block. Each of their linears is a target, whose name is `path.NUMBER.linear`."""

    path: str
    """Of the module that holds them, in a block."""
    count: str
    """The value of config.json that counts them."""
    linears: Mapping[str, Shape]
    """Of one expert, [out, in] each: the first, and after a gate the second."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Files may hold the linears of each expert, instead of one tensor of all: the names of a linear's fused parts."""
    transposed: bool = False
    """The tensor of all is [experts, in, out]."""
    biased: bool = False

    def names(self, count: int) -> Iterator[str]:
        """The linears in a block of so many experts."""
        yield from (f"{self.path}.{number}.{linear}" for number in range(count) for linear in self.linears)


@dataclass(frozen=True)
class Family:
    """How the models of one architecture are built."""

    blocks: str
    """The path of the decoder blocks."""
    linears: tuple[str, ...]
    """In a block, those that are pruned, in the order in which they are."""
    transposed: bool = False
    """Weights are stored [in, out], as in GPT-2's Conv1D."""
    tied: bool = False
    """The head is the embedding where config.json does not say."""
    layers: str = "num_hidden_layers"
    """The value of config.json that counts the blocks."""
    native: bool = False
    """Published models name code of their own, which transformers has by now: it is not run."""
    positions: str = ""
    """The value that says how far learned positions go; empty where positions are not learned."""
    logits: Mapping[str, str] = field(default_factory=dict)
    """What becomes of the head's products, and by which value: `cap` (cap * tanh(x / cap)) or `divisor` (x / divisor)."""
    whole: tuple[str, ...] = ()
    """Fractions of values that must be whole."""
    defaults: Mapping[str, Size] = field(default_factory=dict)
    """Values that config.json may leave out."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Values that say whether tensors are there, and what holds without them."""
    outer: Mapping[str, Shape] = field(default_factory=dict)
    """Tensors outside the blocks, the embedding first, by full name."""
    block: Mapping[str, Shape] = field(default_factory=dict)
    """Tensors of a block."""
    when: Mapping[str, Mapping[str, Shape]] = field(default_factory=dict)
    """Tensors that are there where a condition holds."""

    dense: tuple[str, ...] = ()
    """Matrices of a block that are not pruned: routers."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Parts of the names in published files, and what they are called in the model."""
    experts: Experts | None = None

    @property
    def base(self) -> str:
        """The prefix of tensor names that some published files leave out."""
        return self.blocks.split(".")[0] + "."

    def block_of(self, name: str) -> int | None:
        """The index of the block that a tensor is in; None outside the blocks."""
        match = re.match(rf"{re.escape(self.blocks)}\.(0|[1-9][0-9]{{0,5}})(\.|$)", name)
        return int(match[1]) if match else None

    def input_of(self, name: str) -> tuple[str, str]:
        """Of a linear that is pruned, by its name in the model: its block or expert, and in there what stands for its input.

        The linears of a module have one input, but the last of them, which is given what the others made.
        """
        unit, linears = f"{self.blocks}.{self.block_of(name)}", self.linears
        if self.experts and (match := re.match(rf"{re.escape(f'{unit}.{self.experts.path}')}\.[0-9]+", name)):
            unit, linears = match[0], tuple(self.experts.linears)
        linear = name.removeprefix(f"{unit}.")
        module = linear.rpartition(".")[0]
        last = [other for other in linears if other.rpartition(".")[0] == module][-1]
        return unit, linear if linear == last else f"{module}."

    @property
    def fused(self) -> dict[str, int]:
        """The tensors that fuse linears, and along which dimension of the stored tensor."""
        tensors = dict(self.block)
        for more in self.when.values():
            tensors |= more
        parts = {
            name: [i for i, size in enumerate(shape) if isinstance(size, tuple)] for name, shape in tensors.items()
        }
        return {name: at[0] for name, at in parts.items() if at}


def read_families(text: str) -> dict[str, Family]:
    """Families by model_type, from the text of families.toml.

    Raises:
        UserError: it is none.
    """
    try:
        entries = tomllib.loads(text)
        return {kind: _family(_expanded(entries, kind)) for kind in entries}
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"invalid entry of a family ({fault}): docs/models.md says what one looks like") from None


def _expanded(entries: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """An entry with what it takes over from others."""
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
    if unknown := sorted(set(entry) - known):
        raise KeyError(f"{unknown[0]!r} is no field")
    values = {key: _frozen(value) for key, value in entry.items()}
    if "experts" in values:
        values["experts"] = Experts(**values["experts"])
    return Family(**values)


def _frozen(value: Any) -> Any:
    """Lists become tuples."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


FAMILIES = read_families(resources.files("methods").joinpath("families.toml").read_text())
