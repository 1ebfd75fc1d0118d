"""The leaderboard's summary: which row is best, which rows tie with it, and how it compares with
dense."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.comparing.result_arguments import read
from bench.parts.leaderboard import board_files as leaderboard
from bench.parts.leaderboard import highlights
from bench.reporting import board, pairwise
from helpers import fake_records


def size(root, megabytes, **about):
    beside = {"bits_per_weight": megabytes * 8}
    about |= {"measure": "size", "protocol": "weights", "unit": "B", "beside": beside}
    fake_records.counted(root, "bytes_packed", megabytes * 1e6, **about)


def row(root, method, loss, megabytes, noise=0, seed=0, protocol="wiki-mini@128", **identity):
    about = {"method": method, "seed": seed, "identity": identity}
    fake_records.perplexity(root, loss, noise=noise, protocol=protocol, **about)
    size(root, megabytes, **about)


WHOLE = {"seed": None, "pattern": "dense"}


@pytest.fixture
def filled(tmp_path, known_noise):
    """Two dense rows, one of them the better for training; three pruned ones of which two are as
    good; one quantized."""
    root = tmp_path / "run"
    row(root, "dense", 0.0, 4, noise=1, **WHOLE)
    row(root, "longer", -0.1, 4, noise=2, **WHOLE)
    row(root, "dense", 0.01, 1, noise=3, quantizer="int8", **WHOLE)
    row(root, "good", 0.1, 2, noise=4)
    row(root, "small", 0.1001, 1.5, noise=7, quantizer="int8")
    row(root, "poor", 0.5, 1.2, noise=5)
    return root


def of(*roots):
    return highlights.find_highlights(
        leaderboard.make_sections([read(root) for root in roots], Path("none"))
    )


def test_the_smallest_of_the_best_against_the_best_that_is_whole(filled):
    quantized, pruned = of(filled)
    assert (pruned.best, pruned.tied, pruned.uncompared) == ("small 2:4 int8", ("good 2:4",), 0)
    assert pruned.reference == "longer dense"
    assert pruned.change.startswith("×1.222 (1.1")  # exp(0.2001)
    assert pruned.size == "1.5 MB of 4.0 MB"
    assert (quantized.best, quantized.tied) == ("dense int8", ())
    assert quantized.change.startswith("×1.116 (1.1")


def test_a_whole_row_that_ties_with_the_dense_model_does_not_stand_for_it(tmp_path):
    row(tmp_path, "dense", 0.0, 4, noise=5, **WHOLE)
    row(tmp_path, "turned", -0.0001, 4, noise=6, **WHOLE)
    row(tmp_path, "good", 0.1, 2, noise=4)
    (pruned,) = of(tmp_path)
    assert pruned.reference == "dense"


def test_a_row_of_a_smaller_budget_counts_if_it_is_better(tmp_path):
    """Otherwise a trained row is compared with a dense one that had another training."""
    row(tmp_path, "dense", 0.0, 4, noise=1, **WHOLE)
    for tokens, loss in ((1000, -0.2), (2000, -0.1)):
        for k, (method, pattern) in enumerate((("dense-ft", "dense"), ("cast", "2:4"))):
            identity = {"pattern": pattern, "training": f"wiki-mini@128x1, {tokens} tokens"}
            about = {"method": method, "seed": 0, "identity": identity}
            cost = {"build_s": 1.0, "training_tokens": tokens}
            fake_records.perplexity(tmp_path, loss + 0.01 * k, noise=k + 2, cost=cost, **about)
    size(tmp_path, 2, **about)

    (found,) = of(tmp_path)

    assert (found.best, found.reference) == ("cast 2:4, 1k tokens", "dense-ft dense, 1k tokens")
    assert found.change.startswith("×1.010")


def test_a_difference_that_was_shown_is_no_tie(filled):
    row(filled, "better", 0.015, 3, noise=6)
    _, pruned = of(filled)
    assert (pruned.best, pruned.tied) == ("better 2:4", ())


def test_too_many_rows_leave_the_rest_unknown(filled, monkeypatch):
    monkeypatch.setattr(pairwise, "MAX_PAIRED_ROWS", 3)
    _, pruned = of(filled)
    assert (pruned.best, pruned.tied, pruned.tied_label) == ("good 2:4", (), "2 not compared")
    assert pruned.change == "×1.221", "no interval without a pair"


def test_an_interval_whose_low_end_is_rounded_to_zero_is_not_turned_around(filled):
    table = board.make_sections([read(filled)])[0].tables[0]
    intervals = {key: replace(i, low=0.0, high=9e5) for key, i in table.intervals.items()}
    wide = replace(table, intervals=intervals)
    pairs = [(a, b) for a, b, c in table.intervals if c == table.ranked_by]
    said = [highlights._describe_change(wide, b, a, table.ranked_by) for a, b in pairs]
    assert said and not any("(" in change for change in said)


def test_validation_splits_give_no_answer(tmp_path):
    for i in range(3):
        row(tmp_path, f"m{i}", 0.1 * i, 2, protocol="wiki-mini-validation@128")
    assert not of(tmp_path)
    row(tmp_path, "m0", 0.1, 2)
    (found,) = of(tmp_path)
    assert (found.run, found.best) == ("wiki-mini@128, float32, cpu", "m0 2:4")


def test_accuracy_is_better_higher_and_a_difference(tmp_path):
    fake_records.accuracy(tmp_path, 0, method="dense")
    fake_records.accuracy(tmp_path, 100, method="good")
    fake_records.accuracy(tmp_path, 300, method="poor")
    (found,) = of(tmp_path)
    assert found.best == "good 2:4" and found.change.startswith("−0.100 (−0.1") and found.size == ""


def test_only_the_main_protocol_of_a_model_counts(tmp_path):
    for dtype, gain, megabytes in (("float32", 0.0, 4), ("bfloat16", 0.05, 2)):
        row(tmp_path, "dense", gain, megabytes, dtype=dtype, **WHOLE)
        row(tmp_path, "good", 0.1 + gain, megabytes / 2, dtype=dtype)
    row(tmp_path, "other", 0.3, 1, dtype="bfloat16")
    (found,) = of(tmp_path)
    assert found.run == "wiki-mini@128, bfloat16, cpu"
    assert found.best == "good 2:4"
    assert found.reference == "dense"
    assert found.size == "1.0 MB of 2.0 MB"


def test_a_row_that_is_not_smaller_is_no_answer_and_the_best_quality_comes_first(tmp_path):
    row(tmp_path, "dense", 0.0, 4, noise=1, **WHOLE)
    row(tmp_path, "sparse", 0.1, 4, noise=2, pattern="50%")
    row(tmp_path, "collapsed", 3.0, 1, noise=3, pattern="1:4")
    row(tmp_path, "good", 0.2, 2, noise=4)
    assert [found.best for found in of(tmp_path)] == ["good 2:4", "collapsed 1:4"]
    row(tmp_path, "sparse", 0.15, 2, noise=5, pattern="50%", quantizer="int8")
    best = [found.best for found in of(tmp_path)]
    assert best == ["sparse 50% int8", "good 2:4", "collapsed 1:4"]
