"""Sizes of a model, counted once from its shapes. Every estimate of memory and time is arithmetic on them."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from bench.inputs.shapes import PlannedModel
from bench.planning.spec import Targets
from methods.errors import UserError
from methods.folder import Folder
from methods.pattern import Pattern
from methods.targets import family_of, find_targets, input_widths, require_fit


class ModelSizes(BaseModel, frozen=True):
    """Numbers of parameters of a model and its parts."""

    parameters: int
    outside: int
    """Parameters outside the blocks."""
    block: int
    """Parameters of the largest block."""
    rest: int
    """Parameters of the largest block without its experts."""
    expert: int
    """Parameters of the largest expert. 0: no experts."""
    hidden: int
    """Width of the hidden states."""
    hessians: int
    """Entries of the Hessians in memory at a time: one for each input of a block, and two copies of the largest."""
    hessians_by_expert: int
    """The same if experts are pruned one by one."""

    @property
    def at_once(self) -> int:
        """Parameters of blocks in memory, while a thread reads the next part."""
        return self.rest + self.expert + max(self.rest, self.expert)


def count_sizes(
    folder: Folder | PlannedModel, wanted: Targets, patterns: Iterable[Pattern], groups: Mapping[str, Any]
) -> ModelSizes:
    """Count the parameters of a model. groups: group size of each quantizer and transform, or None, by its label."""
    config, shapes = folder.config, folder.shapes()
    targets = find_targets(config, shapes, wanted.include, wanted.exclude)
    for pattern in (Pattern.parse("dense"), *patterns):
        require_fit(pattern, shapes, targets)
    widths = {target: shapes[f"{target}.weight"][1] for target in targets}
    for (label, group), (name, width) in itertools.product(groups.items(), widths.items()):
        if isinstance(group, int) and (group < 1 or width % group):
            raise UserError(
                f"{label}: groups of {group} do not divide the {width} inputs of {name}: "
                "use a size that does, or leave group= out"
            )
    family = family_of(config)
    outside, blocks, experts = 0, Counter[str](), Counter[str]()
    path = re.escape(family.experts.path) if family.experts else "(?!)"
    inner = re.compile(rf"(.+\.{path}\.\d+)\.")
    for name, shape in shapes.items():
        size, block = math.prod(shape), family.block_of(name)
        if block is None:
            outside += size
            continue
        match = inner.match(name)
        unit = match[1] if match else f"{block}"
        (experts if match else blocks)[unit] += size
    whole = Counter(blocks)
    for unit, size in experts.items():
        whole[str(family.block_of(unit))] += size
    largest, expert = max(blocks, key=blocks.__getitem__), max(experts, key=experts.__getitem__, default="")

    def count_hessians(by_expert: bool) -> int:
        units = ([width * width for width in unit] for unit in input_widths(widths, family, by_expert))
        return max(sum(squares) + 2 * max(squares) for squares in units)

    return ModelSizes(
        parameters=outside + whole.total(),
        outside=outside,
        block=max(whole.values()),
        rest=blocks[largest],
        expert=experts[expert],
        hidden=shapes[next(iter(family.outer))][1],
        hessians=count_hessians(False),
        hessians_by_expert=count_hessians(True),
    )
