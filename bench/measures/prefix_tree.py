"""Token sequences as trees: sequences that begin alike share the nodes of what they begin with."""

from __future__ import annotations

from collections.abc import Sequence


class PrefixTree:
    """Nodes, each with one token, in the order of a walk down one branch after the other: a subtree is a run of nodes."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        """How many nodes are above each node: the position of its token in the sequence."""
        self.ends: list[int] = []
        """The node after each node's subtree. Node j is i or above it where j <= i < ends[j]."""
        self.paths: dict[int, list[int]] = {}
        """The nodes of each sequence, by the sequence's number."""

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, number: int, sequence: Sequence[int], before: Sequence[int] = (), shared: int = 0) -> list[int]:
        """Add a sequence and return its path.

        Args:
            before: the path of the sequence added last.
            shared: how many tokens of that one this one begins with.
        """
        start, end = len(self), len(self) + len(sequence) - shared
        for node in before[:shared]:
            self.ends[node] = end
        self.tokens += sequence[shared:]
        self.depths += range(shared, len(sequence))
        self.ends += [end] * (end - start)
        self.paths[number] = [*before[:shared], *range(start, end)]
        return self.paths[number]


def grow_trees(sequences: Sequence[Sequence[int]], capacity: int, reach: int) -> list[PrefixTree]:
    """Trees with all the sequences, the largest tree first.

    A sequence joins the tree of the one before it, in the order of their tokens, where that is less work than a tree of its
    own. Work is counted as attention does it: each node looks at every node of its tree, needed or not.

    Args:
        capacity: nodes of a tree at most, unless one sequence alone is longer.
        reach: a token's other work, as a number of nodes that attention looks at.
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


def _work(nodes: int, reach: int) -> int:
    return nodes * (reach + nodes)


def _count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
