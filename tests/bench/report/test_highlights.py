"""What a leaderboard says first: which row is best, which are as good, and against what."""

from pathlib import Path

import pytest

from bench.compare.resolve import read
from bench.report import highlights, html, leaderboard
from helpers import fake_records, reports


def size(root, megabytes, **about):
    fake_records.counted(root, "bytes_packed", megabytes * 1e6, measure="size", protocol="weights", unit="B", **about)


def row(root, method, loss, megabytes, noise=0, seed=0, protocol="wiki-mini@128", **identity):
    fake_records.perplexity(root, loss, method=method, seed=seed, noise=noise, protocol=protocol, identity=identity)
    size(root, megabytes, method=method, seed=seed, identity=identity)


@pytest.fixture
def filled(tmp_path):
    """Two dense rows, one of them the better for training; three pruned ones of which two are as good; one quantized."""
    root = tmp_path / "run"
    row(root, "dense", 0.0, 4, noise=1, seed=None, pattern="dense")
    row(root, "longer", -0.1, 4, noise=2, seed=None, pattern="dense")
    row(root, "dense", 0.01, 1, noise=3, seed=None, pattern="dense", quantizer="int8")
    row(root, "good", 0.1, 2, noise=4)
    row(root, "small", 0.1001, 1.5, noise=7, quantizer="int8")
    row(root, "poor", 0.5, 1.2, noise=5)
    return root


def of(*roots):
    return highlights.of(leaderboard.sections([read(root) for root in roots], Path("none")))


def test_the_smallest_of_the_best_against_the_best_that_is_whole(filled):
    pruned, quantized = of(filled)
    assert (pruned.best, pruned.tied, pruned.unknown) == ("small 2:4 int8", ("good 2:4",), 0)
    assert pruned.reference == "longer dense" and pruned.against.startswith("×1.222 (×1.2")  # exp(0.2001)
    assert pruned.packed == "1.5 MB of 4.0 MB"
    assert (quantized.best, quantized.tied) == ("dense int8", ()) and quantized.against.startswith("×1.116 (×1.1")


def test_a_difference_that_was_shown_is_no_tie(filled):
    row(filled, "better", 0.05, 3, noise=6)
    pruned, _ = of(filled)
    assert (pruned.best, pruned.tied) == ("better 2:4", ())


def test_too_many_rows_leave_the_rest_unknown(filled, monkeypatch):
    monkeypatch.setattr("bench.report.pairwise.MOST", 3)
    pruned, _ = of(filled)
    assert (pruned.best, pruned.tied, pruned.others) == ("good 2:4", (), "2 not compared")
    assert pruned.against == "×1.221", "no interval without a pair"


def test_validation_splits_give_no_answer_and_stand_last(filled, tmp_path):
    searched = tmp_path / "a-search"
    for i in range(3):
        row(searched, f"m{i}", 0.1 * i, 2, protocol="wiki-mini-validation@128")
    assert not of(searched)
    found = leaderboard.sections([read(searched), read(filled)], Path("none"))
    assert [s.title for s in found] == ["run", "a-search"]


def test_accuracy_is_better_higher_and_a_difference(tmp_path):
    fake_records.accuracy(tmp_path, 0, method="dense", identity={"pattern": "dense"})
    fake_records.accuracy(tmp_path, 100, method="good")
    fake_records.accuracy(tmp_path, 300, method="poor")
    (found,) = of(tmp_path)
    assert found.best == "good 2:4" and found.against.startswith("−0.100 (−0.1") and found.packed == ""


def test_a_row_that_is_better_than_the_whole_one(tmp_path):
    row(tmp_path, "good", 0.0, 2, noise=1)
    row(tmp_path, "kept", 0.1, 4, noise=2, pattern="dense")
    (found,) = of(tmp_path)
    assert found.against.startswith("×0.905 (×0.9") and found.reference == "kept dense"  # exp(-0.1)


def test_dtypes_are_no_contest(tmp_path):
    for dtype, gain in (("float32", 0.0), ("bfloat16", 0.05)):
        row(tmp_path, "dense", gain, 4 if dtype == "float32" else 2, seed=None, pattern="dense", dtype=dtype)
        row(tmp_path, "good", 0.1 + gain, 2 if dtype == "float32" else 1, dtype=dtype)
    half, full = of(tmp_path)
    assert (half.best, half.reference, half.packed) == ("good 2:4 bfloat16", "dense bfloat16", "1.0 MB of 2.0 MB")
    assert (full.best, full.reference, full.packed) == ("good 2:4 float32", "dense float32", "2.0 MB of 4.0 MB")
    assert half.tied == full.tied == ()


def test_without_a_whole_row_nothing_is_compared_with_it(tmp_path):
    row(tmp_path, "good", 0.1, 2)
    (found,) = of(tmp_path)
    assert (found.against, found.reference, found.packed) == ("", "", "2.0 MB")


def test_names_stay_text_and_the_page_says_it_first(tmp_path):
    root = reports.hostile(tmp_path)
    found = leaderboard.sections([read(root)], Path("none"))
    text = html.html(found)
    assert f"{reports.CLOSING} 2:4" in {a.best for a in highlights.of(found)}
    assert text.index("In short") < text.index('id="tools"') and "<img" not in text and text.count("<script") == 2
    made = leaderboard.make([root], Path("none"))["leaderboard.md"].decode()
    assert made.index("## In short") < made.index("| method |") and "<script" not in made
