"""Each verdict of a gate, reached by a pair made for it; what fails it, and what only looks like
it."""

import numpy as np
import pytest

from bench.comparing import gate_settings, pairing, render
from bench.comparing.result_arguments import read
from bench.comparing.verdict import Row, compare
from bench.results.record import Item, ReadingRow
from bench.stats.bootstrap import Estimate
from helpers import fake_records
from helpers.verdicts import verdict

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("loss", "spread", "expected"),
    [
        (0.03, 0.01, "REGRESSION"),
        (0.001, 0.002, "OK"),
        (-0.03, 0.01, "IMPROVED"),
        (0.004, 0.02, "INCONCLUSIVE"),
        (0.02, 0.2, "INCONCLUSIVE"),
    ],
)
def test_perplexity(roots, loss, spread, expected):
    fake_records.perplexity(roots[0])
    fake_records.perplexity(roots[1], loss, spread, made="b", noise=1)
    row = verdict(roots)["perplexity"]
    assert row.verdict == expected
    value, low, high = row.effect
    assert value == pytest.approx(row.after / row.before) and low < value < high
    assert row.estimate.n == fake_records.ARTICLES and row.estimate.unit == "articles"
    assert (row.required_n is not None) == (expected == "INCONCLUSIVE")


def test_a_regression_is_a_loss_beyond_the_margin_and_not_beyond_zero(roots):
    """A loss of 0.8% is real, and over the margin of 0.5%, but not beyond noise."""
    fake_records.perplexity(roots[0])
    fake_records.perplexity(roots[1], 0.008, 0.01, made="b", noise=1)
    row = verdict(roots)["perplexity"]
    assert row.verdict == "INCONCLUSIVE" and row.estimate.p < 0.001 and row.adjusted > 0.05
    assert verdict(roots, margins={"perplexity": 0.001})["perplexity"].verdict == "REGRESSION"


@pytest.mark.usefixtures("known_noise")
def test_one_seed_can_be_within_its_margin(roots):
    """The noise between seeds alone is larger than the margin. OK is a statement on the seed that
    was run."""
    fake_records.perplexity(roots[0], seed=0)
    fake_records.perplexity(roots[1], 0.001, 0.002, made="b", noise=1, seed=0)
    row = verdict(roots)["perplexity"]
    assert row.verdict == "OK" and row.estimate.high > np.log1p(0.005) > row.estimate.alone.high
    assert "published rows of a published model" in row.reason


def test_two_seeds_are_within_their_margin_only_with_the_noise_between_seeds(roots):
    for seed in (0, 1):
        fake_records.perplexity(roots[0], seed=seed)
        fake_records.perplexity(roots[1], 0.001, 0.002, made="b", noise=1 + seed, seed=seed)
    row = verdict(roots)["perplexity"]
    assert row.verdict == "INCONCLUSIVE" and row.estimate.alone.high < np.log1p(0.005)


def test_an_interval_wider_than_any_number_is_still_printed():
    estimate = Estimate(0.01, 1.0, -900.0, 900.0, 0.9, 2, "articles")
    row = Row("a", "perplexity", "INCONCLUSIVE", ratio=True, estimate=estimate)
    assert row.effect == (pytest.approx(1.01, rel=1e-2), None, None)
    assert render.format_change(row) == "×1.0101, no interval"


def test_noise_alone_passes(roots):
    """Articles move by 0.3% either way, in many rows: none is called a regression."""
    for i in range(4):
        fake_records.perplexity(roots[0], method=f"m{i}")
        fake_records.perplexity(roots[1], 0.0, 0.003, made="b", noise=i + 1, method=f"m{i}")
    found = compare(*(read(r) for r in roots), gate_settings.read(None))
    assert found.family == 4 and found.level == 0.05 / 4
    assert {r.verdict for r in found.rows} == {"OK"}
    assert not found.failed


@pytest.mark.parametrize(
    ("lost", "gained", "expected"),
    [
        (60, 5, "REGRESSION"),
        (3, 2, "OK"),
        (5, 60, "IMPROVED"),
        (22, 10, "INCONCLUSIVE"),
        (8, 0, "INCONCLUSIVE"),
    ],
)
def test_accuracy(roots, lost, gained, expected):
    """8 lost of 1000 are a difference, by McNemar, and no regression: less than the margin."""
    fake_records.accuracy(roots[0])
    fake_records.accuracy(roots[1], lost, gained, made="b")
    row = verdict(roots)["acc"]
    assert row.verdict == expected
    assert (row.estimate.lost, row.estimate.gained) == (lost, gained)
    assert row.effect[0] == pytest.approx((gained - lost) / 1000)
    assert row.after - row.before == pytest.approx((gained - lost) / 1000)


@pytest.mark.parametrize(
    ("made", "loss", "expected"),
    [("ab", 0.0, "OK"), ("ab", 1e-4, "INCONCLUSIVE"), ("aa", 1e-4, "OK")],
)
def test_equal_answers_are_certain_if_the_models_are_known_to_be_equal(roots, made, loss, expected):
    """Models are known to be equal by their weights, or by the losses of all windows. A refactoring
    then passes a strict gate."""
    for k, root in enumerate(roots):
        code = {"measure": {"source": "ab"[k]}}
        about = {"made": made[k], "key_inputs": code, "seed": 0}
        fake_records.accuracy(root, n=50, **about)
        fake_records.perplexity(root, loss * k, **about)
    assert verdict(roots)["acc"].verdict == expected


def test_equal_answers_of_two_models_with_equal_zeros_are_not_certain(roots):
    """Each layer of every 2:4 model has half of its weights."""
    layers = [Item(f"layer {k}", f"layer {k}", 0.5, 64.0) for k in range(4)]
    for k, root in enumerate(roots):
        about = {"made": "ab"[k]}
        fake_records.accuracy(root, n=50, **about)
        fake_records.counted(root, "sparsity", 0.5, items=layers, measure="size", **about)
    assert verdict(roots)["acc"].verdict == "INCONCLUSIVE"


def test_scores_of_a_whole_task_are_not_compared_by_the_questions_of_another_metric(roots):
    right = [Item(f"q{i}", f"q{i}", float(i % 2 == 0), 1.0) for i in range(1000)]
    for root, value in zip(roots, (0.8, 0.3), strict=True):
        of_all = {"value": value, "unit": "1", "better": "higher", "n": 1000}
        f1, bleu = (ReadingRow(metric=metric, **of_all) for metric in ("f1", "bleu"))
        with_f1 = fake_records.accuracy(root, made=value)
        fake_records.put(root, with_f1, right, [*with_f1.readings, f1])
        alone = fake_records.record(measure="zeroshot", protocol="wmt@1.0", made=value)
        fake_records.put(root, alone, (), [bleu])

    rows = compare(*map(read, roots), gate_settings.read(None), exploratory=True).rows

    found = {row.metric: row for row in rows}
    assert found["acc"].verdict == "OK"
    assert {found[m].reason for m in ("f1", "bleu")} == {"it has no score for each item"}


def test_accuracy_over_seeds_counts_the_flips_of_all(roots):
    for seed in (0, 1, 2):
        fake_records.accuracy(roots[0], seed=seed)
        fake_records.accuracy(roots[1], 60 + seed, 5, made="b", seed=seed)
    row = verdict(roots)["acc"]
    assert row.verdict == "REGRESSION"
    assert (row.estimate.lost, row.estimate.gained, row.estimate.seeds) == (183, 15, 3)


@pytest.mark.parametrize(
    ("factor", "spread", "expected"),
    [
        (1.2, 0.01, "REGRESSION"),
        (1.0, 0.01, "OK"),
        (0.8, 0.01, "IMPROVED"),
        (1.06, 0.1, "INCONCLUSIVE"),
    ],
)
def test_latency(roots, factor, spread, expected):
    fake_records.latency(roots[0], spread=spread)
    fake_records.latency(roots[1], factor, made="b", noise=2, spread=spread)
    row = verdict(roots)["prefill"]
    assert row.verdict == expected
    assert row.estimate.unit == "blocks"


@pytest.mark.parts("speed")
@pytest.mark.parametrize(("factor", "expected"), [(1.002, "OK"), (0.8, "REGRESSION")])
def test_a_speedup_is_timed_and_need_not_be_reproduced(roots, factor, expected):
    """Two timings of one key on one machine may differ, where a computed number may not."""
    for noise, (root, scale) in enumerate(zip(roots, (1.0, factor), strict=True)):
        fake_records.latency(root, scale, noise=noise, metric=("speedup", "1", "higher"))
    assert verdict(roots)["speedup"].verdict == expected


def test_nine_blocks_of_timings_are_too_few(roots):
    for root, made in zip(roots, "ab", strict=True):
        fake_records.latency(root, blocks=9, made=made, noise=ord(made))
    assert verdict(roots)["prefill"].verdict == "NOT_COMPARABLE"


@pytest.mark.parametrize(("after", "expected"), [(3.0, "REGRESSION"), (0.0, "OK")])
def test_what_is_counted_needs_no_test(roots, after, expected):
    fake_records.counted(roots[0], "violated_groups", 0.0)
    fake_records.counted(roots[1], "violated_groups", after, made="b")
    found = compare(*(read(r) for r in roots), gate_settings.read(None))
    assert [r.verdict for r in found.rows] == [expected]
    assert found.family == 0


def test_bytes_are_compared_by_ratio(roots):
    fake_records.counted(roots[0], "bytes_packed", 1e6, unit="B", measure="size")
    fake_records.counted(roots[1], "bytes_packed", 1.004e6, unit="B", measure="size", made="b")
    assert verdict(roots)["bytes_packed"].verdict == "OK"
    assert verdict(roots, margins={"bytes_packed": 0.001})["bytes_packed"].verdict == "REGRESSION"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0.0,), "OK"),
        ((5e-5,), "OK"),
        ((3e-4,), "REGRESSION"),
        ((-3e-4,), "IMPROVED"),
        ((-0.05, 0.0), "IMPROVED"),
        ((-0.06, 0.05), "REGRESSION"),
    ],
)
def test_the_same_key_has_only_to_be_reproduced_for_each_seed(roots, losses, expected):
    """3e-4 is far under the margin, and no reproduction."""
    for seed, loss in enumerate(losses):
        fake_records.perplexity(roots[0], seed=seed)
        fake_records.perplexity(roots[1], loss, seed=seed)
    row = verdict(roots)["perplexity"]
    assert row.verdict == expected
    assert ("not reproduced" in row.reason) == (expected != "OK")


@pytest.mark.parametrize("other", [{"cpu": "Xeon"}, {"cpu_model": "6/143/8"}, {"isa": "AVX2"}])
def test_the_same_key_on_another_machine_is_a_test_like_any_other(roots, other):
    """Records with one key that differ are a fault on one CPU, and noise between two. A cloud gives
    several CPUs one name."""
    about = {"cpu": "EPYC", "cpu_model": "25/17/1", "isa": "AVX512", "device": None}
    fake_records.perplexity(roots[0], provenance={"machine": about})
    fake_records.perplexity(roots[1], 0.0, 0.002, noise=1, provenance={"machine": about | other})
    row = verdict(roots)["perplexity"]
    assert row.verdict == "OK" and row.estimate is not None


def test_one_seed_of_a_method_with_seeds_is_judged_with_more_doubt(roots):
    fake_records.perplexity(roots[0], seed=0)
    fake_records.perplexity(roots[1], 0.01, 0.005, made="b", noise=1, seed=0)
    row = verdict(roots)["perplexity"]
    trusting = verdict(roots, seed_noise={"perplexity": 0.0})["perplexity"]
    assert (row.verdict, trusting.verdict) == ("INCONCLUSIVE", "REGRESSION")
    assert "1 calibration seed" in row.reason and row.required_n[1] == "seeds"


DRAWS = (54.2, 55.1, 55.9)
"""Perplexities of one method with three draws of the calibration text."""
TEXT = {"data": "wiki-mini", "seqlen": 128, "sequences": 16}


def drawn(root, changes, content="c" * 12, **about):
    """Write a record for each draw, worse by `changes`. content: digest of the text."""
    label = "{data}@{seqlen}x{sequences}".format(**TEXT)
    about |= {"identity": {"calibration": label}, "measure": "perplexity"}
    about |= {"key_inputs": {"calibration": TEXT | {"content": content}}}
    for seed, (value, change) in enumerate(zip(DRAWS, changes, strict=True)):
        loss = np.log(value / DRAWS[0]) + np.log1p(change)
        fake_records.perplexity(
            root, loss, 0.005, noise=bool(change) and 1 + seed, seed=seed, **about
        )


@pytest.mark.parametrize(
    ("content", "expected"), [("c" * 12, "REGRESSION"), ("d" * 12, "INCONCLUSIVE")]
)
def test_a_loss_of_each_draw_is_no_noise_between_draws(roots, content, expected):
    """Draws differ by 3%, and each is worse by about 1.8%. Draws of another text show less."""
    drawn(roots[0], (0.0, 0.0, 0.0))
    drawn(roots[1], (0.018, 0.014, 0.022), content, made="b")
    row = verdict(roots)["perplexity"]
    assert row.verdict == expected
    assert (row.reason == "paired by draw") == (expected == "REGRESSION")
    value, low, high = row.effect
    assert value == pytest.approx(1.018, abs=1e-3)
    assert (low > 1.005) == (high < 1.031) == (expected == "REGRESSION")


@pytest.mark.parametrize("changes", [(0.02, -0.015, 0.004), (0.012, 0.001, 0.012)])
def test_draws_that_disagree_are_no_regression(roots, changes):
    drawn(roots[0], (0.0, 0.0, 0.0))
    drawn(roots[1], changes, made="b")
    assert verdict(roots)["perplexity"].verdict == "INCONCLUSIVE"


def test_a_family_asks_more_of_each(roots):
    """What would be a regression alone is none among twenty."""
    fake_records.perplexity(roots[0])
    fake_records.perplexity(roots[1], 0.018, 0.025, made="b", noise=1)
    alone = verdict(roots)["perplexity"]
    for i in range(19):
        fake_records.accuracy(roots[0], n=100, method=f"m{i}")
        fake_records.accuracy(roots[1], 3, 3, n=100, made="b", method=f"m{i}")

    among = verdict(roots)["perplexity"]

    assert (alone.verdict, among.verdict) == ("REGRESSION", "INCONCLUSIVE")
    assert among.adjusted > 0.05 > alone.adjusted
    explored = compare(*map(read, roots), gate_settings.read(None), exploratory=True)
    (row,) = (r for r in explored.rows if r.metric == "perplexity")
    assert row.verdict == "INCONCLUSIVE"
    assert row.required_n[0] > row.estimate.n, "more than there are would decide"


def test_a_gain_among_many_tests_needs_the_adjusted_p(roots):
    """Its own interval is all gain, but its adjusted p is not below alpha: ranks say no difference,
    and so do verdicts."""
    fake_records.perplexity(roots[0])
    fake_records.perplexity(roots[1], -0.01, 0.025, made="b", noise=1)
    for i in range(9):
        fake_records.accuracy(roots[0], n=100, method=f"m{i}")
        fake_records.accuracy(roots[1], 3, 3, n=100, made="b", method=f"m{i}")
    before, after = map(read, roots)
    found = compare(before, after, gate_settings.read(None), exploratory=True)
    (row,) = (r for r in found.rows if r.metric == "perplexity")
    assert row.effect[2] < 1 and row.estimate.p > 0.05 / 10 and row.verdict == "OK"


@pytest.mark.parametrize(
    ("pattern", "before", "after", "expected"),
    [
        ("2:4", 0.5341, 0.5329, "OK"),
        ("dense", 0.3167, 0.0, "OK"),
        ("2:4", 0.5341, 0.4950, "REGRESSION"),
        ("2:4", 0.4950, 0.5341, "IMPROVED"),
    ],
)
def test_sparsity_counts_up_to_its_pattern(roots, pattern, before, after, expected):
    """Zeros above the required number come from rounding to few bits."""
    about = {"measure": "size", "identity": {"pattern": pattern, "quantizer": "int3-rtn"}}
    fake_records.counted(roots[0], "sparsity", before, **about)
    fake_records.counted(roots[1], "sparsity", after, made="b", **about)
    assert verdict(roots)["sparsity"].verdict == expected


def test_items_of_two_rows_of_one_name_are_told_apart(roots):
    for root in roots:
        for dtype in ("float32", "bfloat16"):
            fake_records.perplexity(root, identity={"dtype": dtype})
    found, _, _ = pairing.pair_results(*(read(r) for r in roots), (), common_seeds=False)
    assert sorted(p.name.split()[-1] for p in found) == ["bfloat16", "float32"]
