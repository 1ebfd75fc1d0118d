"""Prefix trees: each sequence is a path, a node sees its path alone, and joining never costs more
work."""

import random

import pytest

from bench.measures.prefix_tree import grow_trees

DICE = random.Random(0)
SEQUENCES = [[DICE.randrange(3) for _ in range(DICE.randrange(1, 9))] for _ in range(60)]
"""Of three tokens, so that many begin alike, and some are others' beginnings or stand there
twice."""


@pytest.mark.parametrize("capacity", [1, 20, 1000])
def test_each_sequence_is_the_path_that_its_last_node_sees(capacity):
    trees = grow_trees(SEQUENCES, capacity, reach=100)
    paths = {number: (tree, path) for tree in trees for number, path in tree.paths.items()}
    assert len(paths) == sum(len(tree.paths) for tree in trees) == len(SEQUENCES)
    for number, (tree, path) in paths.items():
        assert [tree.tokens[node] for node in path] == SEQUENCES[number]
        assert [tree.depths[node] for node in path] == list(range(len(path)))
        assert [j for j in range(len(tree)) if j <= path[-1] < tree.ends[j]] == path
    assert all(len(tree) <= capacity or len(tree.paths) == 1 for tree in trees if capacity > 8)
    assert [len(tree) for tree in trees] == sorted(map(len, trees), reverse=True)


def test_a_node_stands_for_one_beginning():
    tree, *_ = grow_trees(SEQUENCES, 1000, reach=10**6)
    sequences = [SEQUENCES[number] for number in tree.paths]
    assert len(tree) == len({tuple(s[: i + 1]) for s in sequences for i in range(len(s))})


def test_sequences_that_share_too_little_stay_apart():
    """One shared token of fifty: attention would look at a hundred nodes instead of fifty."""
    one, other = [0, *range(1, 50)], [0, *range(51, 100)]
    assert len(grow_trees([one, other], 1000, reach=100)) == 2
    assert len(grow_trees([one, other], 1000, reach=10**6)) == 1
