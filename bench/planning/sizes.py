"""Sizes of a model, counted once from its shapes. Every estimate of memory and time is arithmetic
on them."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel

from bench.inputs.model_facts import ModelFacts
from methods.model.targets import input_widths


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
    """Entries of the Hessians in memory at a time: one for each input of a block, and two copies of
    the largest."""
    hessians_by_expert: int
    """The same if experts are pruned one by one."""
    blocks: int
    """Number of blocks."""
    vocabulary: int
    """Number of tokens that the model knows."""
    columns: int
    """Input columns of all targets together."""
    squares: int
    """Sum of in^2 over the distinct inputs [tokens, in] of all targets."""

    @property
    def multiplied(self) -> int:
        """Parameters that are multiplied with each token: all but an embedding that is not the
        head."""
        embedding = self.vocabulary * self.hidden
        return self.parameters - (embedding if self.outside >= 2 * embedding else 0)

    @property
    def at_once(self) -> int:
        """Parameters of blocks in memory, while a thread reads the next part."""
        return self.rest + self.expert + max(self.rest, self.expert)


def count_sizes(facts: ModelFacts, targets: Iterable[str]) -> ModelSizes:
    """Count the parameters of a model, and the Hessians of its targets."""
    family, shapes = facts.family, facts.shapes
    experts_path = re.escape(family.experts.path) if family.experts else "(?!)"
    expert_of = re.compile(rf"(.+\.{experts_path}\.\d+)\.")
    outside = 0
    # Parameters of each block, of each block without its experts, and of each expert.
    blocks, rests, experts = Counter[int](), Counter[int](), Counter[str]()
    for name, shape in shapes.items():
        size, block = math.prod(shape), family.block_of(name)
        if block is None:
            outside += size
            continue
        blocks[block] += size
        match = expert_of.match(name)
        if match:
            experts[match[1]] += size
        else:
            rests[block] += size
    widths = {target: shapes[f"{target}.weight"][1] for target in targets}
    by_block = input_widths(widths, family, by_expert=False)
    vocabulary, hidden = shapes[next(iter(family.outer))]
    return ModelSizes(
        parameters=outside + blocks.total(),
        outside=outside,
        block=max(blocks.values()),
        rest=max(rests.values()),
        expert=max(experts.values(), default=0),
        hidden=hidden,
        hessians=_count_hessians(by_block),
        hessians_by_expert=_count_hessians(input_widths(widths, family, by_expert=True)),
        blocks=len(blocks),
        vocabulary=vocabulary,
        columns=sum(widths.values()),
        squares=sum(width * width for width in itertools.chain.from_iterable(by_block)),
    )


def _count_hessians(units: Iterable[Iterable[int]]) -> int:
    """Return the most entries that a unit needs. units: input widths of each block or expert."""
    most = 0
    for widths in units:
        squares = [width * width for width in widths]
        most = max(most, sum(squares) + 2 * max(squares))
    return most
