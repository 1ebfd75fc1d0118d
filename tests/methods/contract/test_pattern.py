"""n:m keeps n of every m along a row, and of equal scores the first."""

import itertools

import pytest
import torch

from helpers.oracles import largest
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.workshop.pruning import selection

INVALID = ["5:4", "0:4", "0:0", "x", "2:", ":4", "2:4:8", "-2:4", "0%", "100%", "50", "99.99999%"]
INVALID_PAIRS = ["pairs:3:8", "pairs:4:7", "pairs:10:8", "pairs:0:8", "pairs", "pairs:50%"]
PAIRS = Pattern.parse("pairs:4:8")
SMALL = ["1:2", "1:4", "2:4", "3:4", "2:8", "4:8", "6:8", "pairs:2:4", "pairs:4:8", "pairs:2:8"]
TERMS = ["dense + r16", "2:4 + 16", "depth 25% + r1", "2:4 + r1 + r2"]


@pytest.mark.parametrize("text", [*INVALID, *INVALID_PAIRS, *TERMS, "", "2:4\n"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(UserError, match="pattern"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["16:32", "pairs:4:8", "50%", "66.6667%", "0.0001%", "dense"])
def test_a_pattern_is_written_as_it_is_read(text):
    assert str(Pattern.parse(text)) == text
    if text != "dense":
        assert str(Pattern.parse(f"{text} + r16")) == f"{text} + r16"
        assert Pattern.parse(f"{text} + 12.5%").base == Pattern.parse(text)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (4, 8), (8, 16), (3, 32), (16, 32)])
def test_keep_is_the_naive_loop(n, m):
    """Three values in a group of four or more: nearly every group ties."""
    score = torch.randint(3, (20, 2 * m), generator=torch.Generator().manual_seed(0)).float()
    score[0, 0] = torch.inf
    assert torch.equal(Pattern(n, m).keep(score), largest(score, n, m))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_pairs_keep_the_most_squares(dtype):
    score = torch.rand(20, 32, generator=torch.Generator().manual_seed(0)).mul(1e-3).to(dtype)
    keep = PAIRS.keep(score)
    pairs = keep.unflatten(1, (-1, 4, 2))
    assert torch.equal(pairs[..., 0], pairs[..., 1]) and bool((pairs[..., 0].sum(-1) == 2).all())
    squares = score.double().square().unflatten(1, (-1, 4, 2)).sum(-1)
    kept = squares.where(pairs[..., 0], 0).sum(-1)
    assert torch.allclose(kept, squares.topk(2, -1).values.sum(-1), rtol=1e-6)
    assert PAIRS.violations(keep) == Pattern(4, 8).violations(keep) == 0
    # In this order of the inputs it is 2:4.
    order = torch.arange(32).view(-1, 4, 2).mT.flatten()
    assert order[:8].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert Pattern(2, 4).violations(keep[:, order]) == 0


def test_pairs_and_two_of_four_are_refused_as_each_other():
    score = torch.rand(20, 32, generator=torch.Generator().manual_seed(0))
    two_of_four, pairs = Pattern(2, 4).keep(score), PAIRS.keep(score)
    assert PAIRS.violations(two_of_four) > 0 and Pattern(2, 4).violations(pairs) > 0
    assert PAIRS.broken_in(1) == "pairs:4:8 does not hold in 1 group"
    with pytest.raises(UserError, match="pairs:n:m keeps whole pairs, so n and m must be even"):
        Pattern.parse("pairs:1:4")


def masks_of(pattern):
    """All masks of eight weights."""
    kept, units = pattern.units
    groups = []
    for places in itertools.combinations(range(units), kept):
        mask = torch.zeros(units)
        mask[list(places)] = 1
        groups.append(pattern.per_weight(mask))
    ways = itertools.product(groups, repeat=8 // pattern.m)
    return torch.stack([torch.cat(way) for way in ways])


@pytest.mark.parametrize("text", SMALL)
def test_a_pattern_implies_another_if_all_its_masks_have_it(text):
    pattern = Pattern.parse(text)
    for other in map(Pattern.parse, SMALL):
        assert pattern.implies(other) == (other.violations(masks_of(pattern)) == 0), other


@pytest.mark.parametrize("text", ["2:4", "2:6"])
def test_small_scores_in_float64_keep_their_order(text):
    """A method may give scores that float32 cannot hold, such as fourth powers."""
    pattern = Pattern.parse(text)
    order = torch.arange(pattern.m, dtype=torch.float64)
    for scores in (1e-60 * order, 1 + 1e-12 * order, 1e60 * (1 + order)):
        assert pattern.keep(scores[None])[0].nonzero().flatten().tolist() == [
            pattern.m - 2,
            pattern.m - 1,
        ]


def test_dense_keeps_all_and_nothing_violates_it():
    weight = torch.randn(3, 5)
    assert Pattern.parse("dense").keep(weight).all()
    assert Pattern.parse("dense").violations(weight) == 0
    assert Pattern(4, 4).dense
    assert Pattern.parse("4:4") == Pattern.parse("dense")
    assert not Pattern(2, 4).dense
    assert not Pattern.parse("50%").dense


@pytest.mark.parametrize("text", ["2:4", "50%"])
def test_an_unknown_unit_is_refused(text):
    with pytest.raises(ValueError, match="unknown per='rows': give layer or row"):
        Pattern.parse(text).keep(torch.ones(4, 4), per="rows")


@pytest.mark.parametrize("per", ["layer", "row"])
@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.99, 1.0])
def test_unstructured_is_the_beginning_of_a_stable_sort(per, levels, sparsity):
    rng = torch.Generator().manual_seed(1)
    score = torch.randint(levels, (6, 50), generator=rng).float() - levels // 2
    flat = score.reshape(1, -1) if per == "layer" else score
    count = flat.shape[1] - round(flat.shape[1] * sparsity)
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    expected = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True)
    assert torch.equal(selection.best(score, sparsity, per), expected.view_as(score))


def test_violations_are_groups_with_more_than_n():
    weight = torch.tensor(
        [[1.0, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 3, 0], [1, 0, 1, 1, 1, 1, 1, 0]]
    )
    assert Pattern(2, 4).violations(weight) == 3
    assert Pattern(3, 4).violations(weight) == 1
    assert Pattern(3, 8).violations(weight) == 2
    assert Pattern(2, 4).violations(weight[1:2]) == 0


def test_unstructured_violations_are_the_weights_too_many():
    """10 x 10, half of them zero, and one to spare in each row."""
    weight = torch.zeros(100)
    weight[:60] = 1
    assert Pattern.parse("50%").violations(weight.reshape(10, 10)) == 0
    weight[:67] = 1
    assert Pattern.parse("50%").violations(weight.reshape(10, 10)) == 7


@pytest.mark.parametrize("text", ["2:4", "2:8", "16:32", "50%", "dense"])
def test_nan_has_no_place_in_an_order(text):
    pattern, score = Pattern.parse(text), torch.ones(2, 32)
    score[1, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN"):
        pattern.keep(score)
    if pattern.m in (4, 8):
        with pytest.raises(FloatingPointError, match="NaN"):
            selection.update_mask(score, score == 1, pattern)


@pytest.mark.numeric
@pytest.mark.parametrize("turned", [False, True], ids=["rows", "transposed"])
@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", "pairs:4:8"])
@pytest.mark.parametrize("piece", [3, 2**17])
def test_an_updated_mask_comes_with_what_changed(text, turned, piece, monkeypatch):
    monkeypatch.setattr(selection, "PIECE_GROUPS", piece)
    pattern = Pattern.parse(text)
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 16, generator=rng).round(decimals=1)  # with ties
    mask = torch.rand(24, 16, generator=rng) > 0.5
    if turned:
        weight, mask = weight.T, mask.T
    keep, was = pattern.keep(weight.abs().contiguous()), mask.clone()

    kept, everything, flips = selection.update_mask(weight, mask, pattern).tolist()

    assert torch.equal(mask, keep)
    for choose in (selection.best_of_groups, selection.best_by_rank):
        chosen = choose(pattern.unit_scores(weight.abs()), *pattern.units)
        assert torch.equal(pattern.per_weight(chosen), keep)
    assert flips == (was != keep).sum()
    assert kept == pytest.approx(float(weight.abs()[keep].double().sum()), rel=1e-6)
    assert everything == pytest.approx(float(weight.abs().double().sum()), rel=1e-6)
