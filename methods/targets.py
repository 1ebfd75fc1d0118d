"""Which linears of a model may be pruned, from its config and the names and shapes of its tensors alone.

A family is taught here or refused: an unknown layer class half pruned would be worse than none. No torch is needed to
ask, so a plan can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from methods.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from methods.pattern import Pattern


class Family(NamedTuple):
    """Where a family keeps its decoder blocks, and every linear in one."""

    blocks: str
    linears: tuple[str, ...]
    transposed: bool = False
    """Weights are stored [in, out], as GPT-2's Conv1D does."""

    @property
    def base(self) -> str:
        """The prefix that some published files leave out of their tensor names."""
        return self.blocks.split(".")[0] + "."

    def block_of(self, name: str) -> int | None:
        """The index of the block a tensor lies in; None outside the blocks."""
        if not name.startswith(self.blocks + "."):
            return None
        return int(name[len(self.blocks) + 1 :].split(".")[0])


_GATED = Family(
    "model.layers",
    (
        *(f"self_attn.{x}_proj" for x in "qkvo"),
        *(f"mlp.{x}_proj" for x in ("gate", "up", "down")),
    ),
)

FAMILIES = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "opt": Family("model.decoder.layers", (*(f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")), "fc1", "fc2")),
    "gpt2": Family("transformer.h", ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), transposed=True),
    "gpt_neox": Family(
        "gpt_neox.layers",
        ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a model, by the `model_type` of its config.

    Raises:
        UserError: nobody taught the suite this architecture, or the weights are already quantized.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(
            f"architecture {kind!r} is not one this suite knows how to prune: it knows {', '.join(FAMILIES)}"
        )
    if config.get("quantization_config"):
        how = config["quantization_config"].get("quant_method", "an unnamed method")
        raise UserError(f"the model is already quantized ({how}): start from its unquantized weights")
    return FAMILIES[kind]


def find_targets(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
) -> tuple[str, ...]:
    """Module names of the linears inside the decoder blocks, in the order of the blocks.

    Args:
        shapes: tensor name -> shape, of the whole model.
        include, exclude: globs over module names ("*.mlp.*", "model.layers.0.*").

    Raises:
        UserError: unknown architecture; a matrix inside a block that the family does not list; nothing left to prune.
    """
    family = family_of(config)
    inside = [n for n, shape in shapes.items() if len(shape) == 2 and family.block_of(n) is not None]
    for name in inside:
        if name.removesuffix(".weight").split(".", family.blocks.count(".") + 2)[-1] not in family.linears:
            raise UserError(
                f"{name} is a matrix that a {config['model_type']} block should not have: a variant not taught here"
            )
    count = 1 + max((family.block_of(n) or 0 for n in inside), default=-1)
    known = [f"{family.blocks}.{i}.{linear}" for i in range(count) for linear in family.linears]
    for name in known:
        if name + ".weight" not in shapes:
            raise UserError(f"{name} is missing from the model: a variant of {config['model_type']} not taught here")
    include, exclude = tuple(include), tuple(exclude)
    chosen = tuple(
        n for n in known if any(fnmatchcase(n, g) for g in include) and not any(fnmatchcase(n, g) for g in exclude)
    )
    if not chosen:
        raise UserError(
            f"no linear matches include {list(include)} and exclude {list(exclude)}; names look like {known[:1]}"
        )
    return chosen


def as_patterns(targets: Iterable[str], family: Family) -> list[str]:
    """Regular expressions that match these names and no others, as few as there are kinds of blocks."""
    linears: dict[int | None, list[str]] = {}
    for name in targets:
        block = family.block_of(name)
        linears.setdefault(block, []).append(name.removeprefix(f"{family.blocks}.{block}."))
    alike: dict[tuple[str, ...], list[str]] = {}
    for block, names in linears.items():
        alike.setdefault(tuple(names), []).append(str(block))
    return [
        rf"^{re.escape(family.blocks)}\.({'|'.join(blocks)})\.({'|'.join(map(re.escape, names))})$"
        for names, blocks in alike.items()
    ]


def require_fit(
    pattern: Pattern,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    targets: Iterable[str],
    option: str = "--set targets.exclude=",
) -> None:
    """Every target's input width must be a whole number of groups. option: what leaves a target out.

    Raises:
        UserError: naming the first that is not.
    """
    transposed = family_of(config).transposed
    for name in targets:
        width = shapes[name + ".weight"][0 if transposed else 1]
        if not pattern.fits(width):
            raise UserError(
                f"pattern {pattern} needs widths that {pattern.m} divides, and {name} has {width} inputs: "
                f"take another pattern, or leave it out with {option}'*.{name.rsplit('.', 1)[-1]}'"
            )


def dense_weight(module: nn.Module) -> Tensor:
    """The weight a module computes with, [out, in]: a live view where it is dense, a copy where it is packed.

    Packed and quantized modules answer for themselves with a method of this name.
    """
    if callable(answer := getattr(module, "dense_weight", None)):
        weight: Tensor = answer()
        return weight
    stored: Tensor = module.weight  # type: ignore[assignment]
    return stored.T if holds_in_out(module) else stored


def holds_in_out(module: nn.Module) -> bool:
    """Is the weight stored [in, out], as GPT-2's Conv1D does (parametrized or not)?"""
    return type(module).__name__.endswith("Conv1D")
