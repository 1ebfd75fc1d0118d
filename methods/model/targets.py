"""Find the linears of a model that can be pruned, by its config and the names and shapes of its
tensors. Needs no torch.

An architecture that is not in methods.model.families is refused, so that no model is pruned in
part.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from methods.contract.errors import UserError
from methods.model.blocks import describe_unknown_family
from methods.model.families import FAMILIES, Family, Flow

if TYPE_CHECKING:
    from torch import Tensor, nn

    from methods.contract.pattern import Pattern


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family of a model, by its config. Raise UserError if it is unknown, or the weights
    are quantized."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(
            f"architecture {kind!r} is not supported: use a model of {', '.join(FAMILIES)}"
        )
    quantization = config.get("quantization_config")
    if quantization is not None:
        how = quantization.get("quant_method") if isinstance(quantization, dict) else None
        how = how or "an unnamed method"
        raise UserError(f"the model is already quantized ({how}): use its unquantized weights")
    return FAMILIES[kind]


def require_flow(config: Mapping[str, Any], name: str, *, fold: bool = False) -> Flow:
    """Return the modules that a transform changes, or raise UserError if the family has no such
    transform.

    name: of the transform, for errors; fold: it moves the weights of norms into the linears that
    read them.
    """
    family, kind = family_of(config), config["model_type"]
    if family.flow is None or family.experts:
        way = "use a model without experts"
        if not family.experts:
            way = (
                "add its flow to methods/model/families.toml (docs/models.md), or use another "
                "method"
            )
        raise UserError(f"{name} does not know the architecture {kind}: {way}")
    why = ""
    if config.get("do_layer_norm_before", True) is False:
        why = "its norms follow the residual stream"
    elif config.get("word_embed_proj_dim") not in (None, config.get("hidden_size")):
        why = "its embedding is narrower than its blocks"
    if why:
        raise UserError(f"{name} does not know this variant of {kind}: {why}")
    if fold and family.flow.after:
        raise UserError(
            f"{name} cannot rotate the residual stream of {kind}, whose norms follow its linears: "
            "use residual=false"
        )
    return family.flow


def find_targets(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
) -> tuple[str, ...]:
    """Return the module names of the linears inside the decoder blocks, in the order of the blocks.

    shapes: tensor name -> shape, of the whole model. include, exclude: globs over module names
    ("*.mlp.*", "model.layers.0.*"). Raise UserError for an unknown architecture, or a block with
    other matrices than the family lists.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(describe_unknown_family(kind, shapes, tuple(FAMILIES)))
    family = family_of(config)
    inside = [
        n for n, shape in shapes.items() if len(shape) == 2 and family.block_of(n) is not None
    ]
    linears = _linears(family, inside)
    known = {*linears, *family.dense}
    for name in inside:
        if _in_block(family, name) not in known:
            raise UserError(
                f"unexpected matrix {name} in a {config['model_type']} block: this variant is not "
                "supported"
            )
    count = 1 + max((family.block_of(n) or 0 for n in inside), default=-1)
    names = []
    for i, linear in itertools.product(range(count), linears):
        names.append(f"{family.blocks}.{i}.{linear}")
        # At the first gap, however large a number a name has.
        if names[-1] + ".weight" not in shapes:
            raise UserError(
                f"missing matrix {names[-1]} in a {config['model_type']} block: this variant is "
                "not supported"
            )
    return select_targets(names, tuple(include), tuple(exclude))


def select_targets(
    names: Sequence[str], include: Collection[str], exclude: Collection[str]
) -> tuple[str, ...]:
    """Return the names that a glob of `include` matches and none of `exclude`.

    Raise UserError if there are none.
    """
    chosen = []
    for name in names:
        is_included = any(fnmatchcase(name, glob) for glob in include)
        if is_included and not any(fnmatchcase(name, glob) for glob in exclude):
            chosen.append(name)
    if not chosen:
        raise UserError(
            f"no linear matches include {list(include)} and exclude {list(exclude)}; names look "
            f"like {list(names[:1])}"
        )
    return tuple(chosen)


def require_matches(globs: Iterable[str], names: Collection[str], model: str) -> None:
    """Raise UserError for a glob that matches no target of a model. names: all targets, without
    globs."""
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            like = next(iter(names), "")
            raise UserError(
                f"no prunable linear of {model} matches {glob!r}: leave it out, or name linears "
                f"such as {like}"
            )


def _in_block(family: Family, name: str) -> str:
    """Return the name of a matrix inside its block."""
    return name.removesuffix(".weight").split(".", family.blocks.count(".") + 2)[-1]


def _linears(family: Family, inside: Iterable[str]) -> tuple[str, ...]:
    """Return the linears of a block: the family's, and those of its experts."""
    experts = family.experts
    if not experts:
        return family.linears
    prefix = f"{experts.path}."
    own = (_in_block(family, name).removeprefix(prefix) for name in inside if prefix in name)
    numbers = {name.partition(".")[0] for name in own}
    count = sum(number.isdecimal() for number in numbers)
    return (*family.linears, *experts.names(count))


def input_widths(widths: Mapping[str, int], family: Family, by_expert: bool) -> list[list[int]]:
    """Return the widths of the distinct inputs of the targets of each block.

    widths: input width of each target; by_expert: count each expert, and the rest of its block,
    separately.
    """
    units: dict[str, dict[tuple[str, str], int]] = {}
    for name, width in widths.items():
        unit, source = family.input_of(name)
        units.setdefault(unit if by_expert else f"{family.block_of(name)}", {})[unit, source] = (
            width
        )
    return [list(inputs.values()) for inputs in units.values()]


def as_regexes(targets: Iterable[str], family: Family) -> list[str]:
    """Return regular expressions that match these names and no others, one for each kind of
    block."""
    linears: dict[int | None, list[str]] = {}
    for name in targets:
        block = family.block_of(name)
        linears.setdefault(block, []).append(name.removeprefix(f"{family.blocks}.{block}."))
    by_linears: dict[tuple[str, ...], list[str]] = {}
    for block, names in linears.items():
        by_linears.setdefault(tuple(names), []).append(str(block))
    return [
        rf"^{re.escape(family.blocks)}\.({'|'.join(blocks)})\.({'|'.join(map(re.escape, names))})$"
        for names, blocks in by_linears.items()
    ]


def require_fit(
    pattern: Pattern,
    shapes: Mapping[str, tuple[int, ...]],
    targets: Iterable[str],
    option: str = "--set targets.exclude=",
) -> None:
    """Raise UserError for a target whose width is not a whole number of groups. option: the flag
    that leaves it out."""
    for name in targets:
        _, width = shapes[f"{name}.weight"]
        if not pattern.fits(width):
            raise UserError(
                f"pattern {pattern} needs input widths that are multiples of {pattern.m}, and "
                f"{name} has {width}: use another pattern, or leave it out with "
                f"{option}'*.{name.rsplit('.', 1)[-1]}'"
            )


def dense_weight(module: nn.Module) -> Tensor:
    """Return the weight that a module computes with, [out, in]: itself if it is dense, a copy if it
    is packed.

    Packed modules have a method of this name.
    """
    if callable(method := getattr(module, "dense_weight", None)):
        weight: Tensor = method()
        return weight
    return module.weight  # type: ignore[return-value]
