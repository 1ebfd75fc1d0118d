"""Axes along which a model can be smaller: its blocks, units, heads, channels and experts. Needs
no torch.

An axis is data: the values of config.json that count its parts, and rules for how many may be left.
Which tensors shrink follows from the shapes in methods/model/families.toml: each dimension whose
size names such a key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods.contract.errors import UserError

if TYPE_CHECKING:
    from methods.model.families import Family, Size

Config = Mapping[str, Any]
Kept = Mapping[str, tuple[Any, ...]]
"""Indices of the parts that are left of a dense model, by axis, each in order. An axis that is
absent keeps all. A tuple of indices, or a tuple of them for each block that is left where each
block has its own parts."""
Share = int | str
"""Number of parts to remove, or a share of them such as "25%", which is rounded."""

BY_INDEX = ("scale_attn_by_inverse_layer_idx",)
"""Keys of config.json that make a block's function depend on its index."""
HIDDEN = "hidden_size"
ACTIVE = "num_experts_per_tok"
"""Key of config.json with the number of experts that run for a token."""
ROUTING_GROUPS = "n_group"
"""Key of config.json with the number of groups among which a router chooses first."""
MULTIPLE = 128
"""Largest power of two of which a number of units or channels stays a multiple, so that groups of
weights still fit."""


def removed(share: Share, count: int) -> int:
    """Return how many of `count` parts are removed."""
    if isinstance(share, int):
        return share
    return math.floor(float(share.removesuffix("%")) / 100 * count + 0.5)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A kind of parts that a model has a number of."""

    name: str
    noun: str
    """Word for the parts in sentences."""
    keys: Callable[[Family], tuple[str, ...]]
    """Keys of config.json whose values are the number of parts, or multiples of it. The last is the
    number itself. Empty: the family has no parts that can be removed."""
    left: Callable[[Share, Family, Config, str], int]
    """Returns how many parts are left without a share of them. The text is the option to suggest,
    such as width:drop. Raises UserError if the model does not allow it, or none would be left."""
    in_block: bool = True
    """True if each block has its own parts: indices are a list for each block that is left, in
    place of one list."""
    changes_outputs: bool = False
    """True if the outputs of blocks have other shapes with fewer parts."""
    scales_norms: bool = False
    """True if norms are scaled, so that their outputs stay the same if the other parts are 0."""
    path: Callable[[Family], str] = lambda family: ""
    """Path of the modules that are numbered by index, within a block if `in_block`. "" if parts are
    no modules."""
    lists: tuple[str, ...] = ()
    """Keys of config.json that list a value for each part."""
    fixed: tuple[str, ...] = ()
    """Keys of config.json that keep their values, which would otherwise follow from the number of
    parts."""
    advice: Callable[[Family], str] = lambda family: "use another model"
    """Returns what to do if a family has none of these parts that can be removed."""

    def size(self, family: Family, config: Config) -> int:
        """Return the number of parts."""
        return family.size(self.keys(family)[-1], config)

    def changes(self, family: Family, config: Config, left: int) -> Iterator[tuple[str, int]]:
        """Yield the keys of config.json whose values change if a number of parts is left, and those
        that stay."""
        of = self.size(family, config)
        for key in self.keys(family):
            other = family.defaults.get(key)
            # Some architectures have the value under another key, which is the family's default.
            named = key
            if key not in config and isinstance(other, str) and other in config:
                named = other
            yield named, family.size(key, config) // of * left
        for key in self.fixed:
            yield key, family.size(key, config)

    def counts(self, size: Size, family: Family) -> bool:
        """Return whether the size of a dimension is a multiple of the number of parts."""
        return any(mentions(size, key) for key in self.keys(family))


def mentions(size: object, key: str) -> bool:
    """Return whether the size of a dimension is arithmetic on a value of config.json."""
    return isinstance(size, str) and re.search(rf"\b{key}\b", size) is not None


def _left_of_blocks(share: Share, family: Family, config: Config, option: str) -> int:
    blocks = family.size(family.layers, config)
    count = removed(share, blocks)
    if count >= blocks:
        raise UserError(
            f"invalid {option}={share}: the model has {blocks} blocks, and at least one must be "
            "left"
        )
    for key in BY_INDEX:
        if config.get(key):
            raise UserError(
                f"no block of this model can be removed, because {key} in its config.json makes "
                "each depend on its index: use another model"
            )
    return blocks - count


def _left_of_units(share: Share, family: Family, config: Config, option: str) -> int:
    return _whole_steps(share, AXES["units"].size(family, config), 1, "units", option)


def _left_of_channels(share: Share, family: Family, config: Config, option: str) -> int:
    heads = family.width.heads if family.width else ()
    return _whole_steps(
        share, family.size(HIDDEN, config), family.size(heads[0], config), "channels", option
    )


def _whole_steps(share: Share, size: int, divisor: int, noun: str, option: str) -> int:
    """Return how many of `size` parts are left: a multiple of a divisor and of a power of two."""
    power = math.gcd(size, MULTIPLE)
    while power > 1 and math.lcm(power, divisor) > size // 8:
        power //= 2
    step = math.lcm(power, divisor)
    left = size - step * removed(share, size // step)
    if left < 1:
        raise UserError(
            f"invalid {option}={share}: the model has {size} {noun}, and at least {step} must be "
            "left"
        )
    return left


def _left_of_heads(share: Share, family: Family, config: Config, option: str) -> int:
    queries, heads = (family.size(key, config) for key in AXES["heads"].keys(family))
    hidden, count = family.size(HIDDEN, config), removed(share, heads)
    allowed = [n for n in range(heads) if hidden % (queries - n * queries // heads) == 0]
    if count not in allowed:
        raise UserError(
            f"{count} of the {heads} heads of keys and values cannot be removed, because the "
            f"number of query heads must divide {HIDDEN}={hidden}: use width:heads=N with N of "
            f"{', '.join(map(str, allowed))}"
        )
    return heads - count


def _left_of_experts(share: Share, family: Family, config: Config, option: str) -> int:
    experts = AXES["experts"].size(family, config)
    left, active = experts - removed(share, experts), config.get(ACTIVE) or 1
    if left < active:
        raise UserError(
            f"invalid {option}={share}: {left} of the {experts} experts would be left, and the "
            f"router chooses {active} for each token: remove at most {experts - active}"
        )
    if (config.get(ROUTING_GROUPS) or 1) > 1:
        raise UserError(
            f"no expert of this model can be removed, because its router first chooses among "
            f"{ROUTING_GROUPS}={config[ROUTING_GROUPS]} groups of equal size: use another model"
        )
    return left


def _channel_keys(family: Family) -> tuple[str, ...]:
    """Return the key of the hidden channels where RMS norms before the linears and a free head size
    allow fewer."""
    flow = family.flow
    has_heads = family.width is not None and bool(family.width.heads)
    if family.experts or not has_heads or flow is None or flow.after or flow.mean or flow.offset:
        return ()
    return (HIDDEN,)


_UNTAUGHT = "use depth, or add its width to methods/model/families.toml (docs/models.md)"

AXES: Mapping[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(
            name="blocks",
            noun="blocks",
            keys=lambda family: (family.layers,),
            left=_left_of_blocks,
            in_block=False,
            path=lambda family: family.blocks,
            lists=("layer_types", "no_rope_layers"),
        ),
        Axis(
            name="units",
            noun="units",
            keys=lambda family: (
                (family.width.units,) if family.width and not family.experts else ()
            ),
            left=_left_of_units,
            advice=lambda family: (
                "use depth, or a model without experts" if family.experts else _UNTAUGHT
            ),
        ),
        Axis(
            name="heads",
            noun="heads",
            keys=lambda family: family.width.heads if family.width else (),
            left=_left_of_heads,
            fixed=("head_dim",),
            advice=lambda family: "use width:heads=0, for units alone",
        ),
        Axis(
            name="channels",
            noun="channels",
            keys=_channel_keys,
            left=_left_of_channels,
            in_block=False,
            changes_outputs=True,
            scales_norms=True,
            fixed=("head_dim",),
            advice=lambda family: (
                "use depth or width, or a model with RMS norms before its linears, an embedding "
                "that is not scaled, and heads of any size, such as a LLaMA"
            ),
        ),
        Axis(
            name="experts",
            noun="experts",
            keys=lambda family: (family.experts.count,) if family.experts else (),
            left=_left_of_experts,
            path=lambda family: family.experts.path if family.experts else "",
            advice=lambda family: "use depth or width, or a mixture of experts",
        ),
    )
}
"""Every axis by its name."""
