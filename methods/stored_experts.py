"""How files hold the experts of a mixture: one tensor of all, or linears of each. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from methods.families import Family


class Piece(NamedTuple):
    """What one stored tensor is of an expert's tensor."""

    name: str
    """Of the expert's tensor, as in the model."""
    part: int
    """Which of its parts, stacked along the outputs; 0 where it is all of it."""
    expert: int | None
    """The index in a tensor of all experts; None where the stored tensor is one expert's."""
    shape: tuple[int, ...]
    """Of the piece, [out, in]."""
    transposed: bool = False


def split(family: Family, name: str, shape: tuple[int, ...]) -> list[Piece]:
    """The pieces of a stored tensor; none where it belongs to no expert. name: as the model has it."""
    return list(_pieces(family, name, shape)) if family.experts else []


def renamed(family: Family, name: str) -> str:
    """A name in a file as the model has it."""
    for old, new in family.renamed.items():
        name = name.replace(old, new)
    return name


def _pieces(family: Family, name: str, shape: tuple[int, ...]) -> Iterator[Piece]:
    experts = family.experts
    assert experts is not None
    path = re.escape(experts.path)
    if match := re.match(rf"(.+\.{path})\.({'|'.join(experts.linears)})(_bias)?$", name):
        prefix, linear, bias = match.groups()
        turned = experts.transposed and not bias
        inner = shape[:0:-1] if turned else shape[1:]
        for number in range(shape[0] if len(shape) == (2 if bias else 3) else 0):
            yield Piece(f"{prefix}.{number}.{linear}.{'bias' if bias else 'weight'}", 0, number, inner, turned)
    elif match := re.match(rf"(.+\.{path}\.\d+)\.(\w+)\.weight$", name):
        prefix, stored = match.groups()
        for linear, parts in experts.parts.items():
            if stored in parts and len(shape) == 2:
                yield Piece(f"{prefix}.{linear}.weight", parts.index(stored), None, shape)
