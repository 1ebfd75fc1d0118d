"""The formats of experts in files: one tensor for all, or linears for each. Needs no torch."""

from __future__ import annotations

import re
from typing import NamedTuple

from methods.model.families import Family


class Piece(NamedTuple):
    """A stored tensor, or an entry of it, as a part of an expert's tensor."""

    name: str
    """Name of the expert's tensor in the model."""
    part: int
    """Index of the part along the outputs; 0 if there is one part."""
    expert: int | None
    """Index in a tensor of all experts; None if the stored tensor belongs to one expert."""
    shape: tuple[int, ...]
    """Shape of the piece, [out, in]."""
    transposed: bool = False


def split(family: Family, name: str, shape: tuple[int, ...]) -> list[Piece]:
    """Return the pieces of a stored tensor, none if it belongs to no expert. name: its name in the
    model."""
    experts = family.experts
    if not experts:
        return []
    path = re.escape(experts.path)
    match = re.match(rf"(.+\.{path})\.({'|'.join(experts.linears)})(_bias)?$", name)
    if match:
        prefix, linear, bias = match.groups()
        turned = experts.transposed and not bias
        inner = shape[:0:-1] if turned else shape[1:]
        full = f"{linear}.{'bias' if bias else 'weight'}"
        count = shape[0] if len(shape) == (2 if bias else 3) else 0
        return [
            Piece(f"{prefix}.{number}.{full}", 0, number, inner, turned) for number in range(count)
        ]
    match = re.match(rf"(.+\.{path}\.\d+)\.(\w+)\.weight$", name)
    if match and len(shape) == 2:
        prefix, stored = match.groups()
        return [
            Piece(f"{prefix}.{linear}.weight", parts.index(stored), None, shape)
            for linear, parts in experts.parts.items()
            if stored in parts
        ]
    return []


def renamed(family: Family, name: str) -> str:
    """Return the name in the model of a name in a file."""
    for old, new in family.renamed.items():
        name = name.replace(old, new)
    return name
