"""Trees of token sequences. Sequences with a common prefix share its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple


class PrefixTree:
    """Nodes with one token each, in depth-first order. So a subtree is a contiguous run of
    nodes."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        """Number of nodes above each node, which is the position of its token in the sequence."""
        self.ends: list[int] = []
        """Index after each node's subtree. Node j is node i or above it if j <= i < ends[j]."""
        self.paths: dict[int, list[int]] = {}
        """Nodes of each sequence, by the number of the sequence."""

    def __len__(self) -> int:
        return len(self.tokens)

    def add(
        self, number: int, sequence: Sequence[int], before: Sequence[int] = (), shared: int = 0
    ) -> list[int]:
        """Add a sequence and return its path. before: path of the previous sequence. shared: length
        of their common prefix."""
        start, end = len(self), len(self) + len(sequence) - shared
        for node in before[:shared]:
            self.ends[node] = end
        self.tokens += sequence[shared:]
        self.depths += range(shared, len(sequence))
        self.ends += [end] * (end - start)
        self.paths[number] = [*before[:shared], *range(start, end)]
        return self.paths[number]


def grow_trees(sequences: Sequence[Sequence[int]], capacity: int, reach: int) -> list[PrefixTree]:
    """Return trees with all sequences, the largest tree first.

    Sort the sequences by their tokens. Add each to the tree of the one before it if that is less
    work than a new tree. Work counts as in attention: each node reads every node of its tree, even
    through a mask.

    Args:
        capacity: largest number of nodes in a tree, unless one sequence alone is longer.
        reach: other work of a token, as a number of nodes that attention reads.
    """
    trees: list[PrefixTree] = []
    before: Sequence[int] = ()
    path: list[int] = []
    for number in sorted(range(len(sequences)), key=lambda n: tuple(sequences[n])):
        sequence = sequences[number]
        shared = _count_shared(before, sequence)
        size = len(trees[-1]) if trees else 0
        joined = size + len(sequence) - shared
        apart = _work(size, reach) + _work(len(sequence), reach)
        if not shared or joined > capacity or _work(joined, reach) > apart:
            trees.append(PrefixTree())
            shared = 0
        path = trees[-1].add(number, sequence, path, shared)
        before = sequence
    return sorted(trees, key=len, reverse=True)


class PrefixGroup(NamedTuple):
    """Sequences with a common prefix."""

    length: int
    """Tokens of the prefix."""
    members: list[int]
    """Numbers of the sequences."""


def group_prefixes(sequences: Sequence[Sequence[int]], least: int) -> list[PrefixGroup]:
    """Group sequences by long common prefixes, such as the examples of a prompt.

    Go through the different sequences in order. One joins the group before it unless the shorter
    common prefix would save fewer tokens. The last token of a sequence is never in its prefix.

    Args:
        least: tokens of the shortest prefix that counts. All other sequences are one group without
            a prefix.
    """
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, sequence in enumerate(sequences):
        numbers.setdefault(tuple(sequence), []).append(number)
    groups: list[tuple[int, list[tuple[int, ...]]]] = []
    for sequence in sorted(numbers):
        length, members = groups[-1] if groups else (0, [])
        shared = min(length, _count_shared(members[-1], sequence)) if members else 0
        if shared >= least and shared * len(members) >= length * (len(members) - 1):
            groups[-1] = (shared, [*members, sequence])
        else:
            groups.append((len(sequence) - 1, [sequence]))
    found, alone = [], []
    for length, members in groups:
        of_group = list(chain.from_iterable(numbers[sequence] for sequence in members))
        if len(members) > 1:
            found.append(PrefixGroup(length, of_group))
        else:
            alone += of_group
    if alone:
        found.append(PrefixGroup(0, alone))
    return found


def _work(nodes: int, reach: int) -> int:
    return nodes * (reach + nodes)


def _count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
