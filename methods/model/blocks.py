"""Find the decoder blocks of a model by the names and shapes of its tensors. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Blocks(NamedTuple):
    """A module list whose members have the same matrices."""

    path: str
    length: int
    linears: tuple[str, ...]
    """Names of the matrices inside a member."""

    def __str__(self) -> str:
        return f"{self.path} ({self.length} with {', '.join(self.linears)})"


def find_blocks(shapes: Mapping[str, tuple[int, ...]]) -> list[Blocks]:
    """Find module lists that look like decoder blocks, those with the most weights first. shapes:
    tensor name -> shape."""
    members: dict[str, dict[str, dict[str, None]]] = {}
    weights: dict[str, int] = {}
    for name, shape in shapes.items():
        match = re.match(r"(.+?)\.(\d+)\.(.+)\.weight$", name)
        if match and len(shape) == 2:
            path, index, linear = match.groups()
            members.setdefault(path, {}).setdefault(index, {})[linear] = None
            weights[path] = weights.get(path, 0) + shape[0] * shape[1]
    found = []
    for path, blocks in members.items():
        first, *others = blocks.values()
        if all(linears.keys() == first.keys() for linears in others):
            found.append(Blocks(path, len(blocks), tuple(first)))
    return sorted(found, key=lambda blocks: weights[blocks.path], reverse=True)


def describe_unknown_family(
    kind: object, shapes: Mapping[str, tuple[int, ...]], known: tuple[str, ...]
) -> str:
    """Return an error sentence about an architecture that has no entry."""
    found = find_blocks(shapes)
    if not found:
        return f"architecture {kind!r} is not supported: use a model of {', '.join(known)}"
    return (
        f"architecture {kind!r} is not supported: its decoder blocks may be "
        f"{'; or '.join(map(str, found[:3]))}; bench families teach FOLDER tries it and prints "
        "the entry to add, and bench families lists what is known"
    )
