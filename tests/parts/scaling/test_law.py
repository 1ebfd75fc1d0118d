"""The scaling law: found where it is known, and honest about what it does not know."""

import numpy as np
import pytest

from bench.parts.scaling import law as scaling_law
from bench.parts.scaling.law import GridRun
from bench.results.record import Item, ReadingRow
from helpers import fake_records
from methods.contract.errors import UserError

SIZES, BUDGETS = (1e5, 4e5, 1.6e6), (1e6, 2e6, 4e6, 8e6)


def grid(rng, A=0.05, a=0.3, b=0.5, spread=0.02, articles=20, sizes=SIZES, budgets=BUDGETS):
    n0, d0 = (np.exp(np.mean(np.log(x))) for x in (sizes, budgets))
    tokens = np.full(articles, 1000.0)
    tilt = rng.normal(0, 0.1, articles)
    out = []
    for n in sizes:
        for d in budgets:
            excess = A * (n / n0) ** -a * (d / d0) ** -b * np.exp(rng.normal(0, spread))
            sums = tokens * excess * (1 + tilt - tilt.mean())
            out.append(GridRun(f"m{n:.0f}", int(n), int(d), sums, tokens))
    return out


def test_finds_the_law_it_was_made_from():
    law = scaling_law.fit(grid(np.random.default_rng(0), spread=0.0))
    values = {k: v.value for k, v in law.coefficients.items()}
    assert values == pytest.approx({"A": 0.05, "a": 0.3, "b": 0.5}, rel=1e-6)


@pytest.mark.full
def test_intervals_hold_the_truth_and_the_point_left_out():
    rng = np.random.default_rng(1)
    hits = np.zeros(4)
    for _ in range(60):
        points = grid(rng)
        law = scaling_law.fit(points, draws=200)
        for k, (name, true) in enumerate({"A": 0.05, "a": 0.3, "b": 0.5}.items()):
            low, high = law.coefficients[name][1:]
            hits[k] += low <= true <= high
        _, held, predicted = scaling_law.predict_holdout(points, draws=200)
        hits[3] += predicted.low <= held.loss <= predicted.high
    assert (hits / 60 > 0.85).all(), hits / 60


@pytest.mark.full
def test_a_prediction_from_few_runs_holds_the_run_left_out():
    """Three fitted runs leave one degree of freedom: with normal deviates, only 73 of 100 intervals
    held it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        points = grid(rng, sizes=(1e5,), spread=0.06)
        _, held, predicted = scaling_law.predict_holdout(points, draws=200)
        hits += predicted.low <= held.loss <= predicted.high
    assert 94 <= hits < 100


def test_an_outlier_moves_neither_the_law_nor_its_interval():
    points = grid(np.random.default_rng(8))
    points[5] = points[5]._replace(excess=3 * points[5].excess)
    law = scaling_law.fit(points, draws=100)
    assert law.coefficients["A"].value == pytest.approx(0.05, rel=0.05)
    assert np.median(law.draws[:, 0]) == pytest.approx(law.coefficients["A"].value, rel=0.02)


def test_one_size_has_no_exponent_of_size():
    law = scaling_law.fit(grid(np.random.default_rng(3), sizes=(1e5,)))
    assert set(law.coefficients) == {"A", "b"}


def test_too_few_runs():
    with pytest.raises(UserError, match="3 coefficients needs at least 4 runs, and there are 3"):
        scaling_law.fit(grid(np.random.default_rng(4))[1::5])


def test_a_run_below_its_control():
    points = grid(np.random.default_rng(5))
    points[2] = points[2]._replace(excess=-points[2].excess)
    with pytest.raises(UserError, match=r"m100000 at 4,000,000 tokens is not above its control"):
        scaling_law.fit(points)


def write(root, method, model, weights, tokens, values, seed=0, text="x", **more):
    labels = {"model": model, "training": f"text@128x8, {tokens:,} tokens"} | more
    training = {"data": "text", "seqlen": 128, "batch": 8, "tokens": tokens}
    about = {"identity": labels, "key_inputs": {"training": training}}
    items = [Item(str(i), str(i // 2), v, 100.0) for i, v in enumerate(values)]
    value = float(np.exp(np.mean(values) / 100))
    loss = ReadingRow(metric="perplexity", value=value, unit="1", better="lower")
    record = fake_records.record(method, seed, token_digest=text, **about)
    fake_records.put(root, record, items, [loss])
    about |= {"method": method, "seed": seed}
    fake_records.counted(root, "parameters", float(weights), **about)


@pytest.fixture
def results(tmp_path):
    rng = np.random.default_rng(6)
    for weights in (1000, 4000, 16000):
        for tokens in (10_000, 40_000, 160_000):
            base = rng.normal(300, 10, 12)
            law = 0.05 * (weights / 4000) ** -0.3 * (tokens / 40_000) ** -0.4
            lost = base + 100 * law * np.exp(rng.normal(0, 0.01)) + rng.normal(0, 0.01, 12)
            model = f"m{weights}"
            write(tmp_path / "r", "dense-ft", model, weights, tokens, base)
            # The size is the control's.
            write(tmp_path / "r", "cast", model, weights + 1, tokens, lost)
    return tmp_path / "r"


def test_reads_its_grid_from_records(results):
    points = scaling_law.read(results, "cast", "dense-ft")
    assert [p.weights for p in points] == [1000] * 3 + [4000] * 3 + [16000] * 3
    assert [p.training for p in points] == [10_000, 40_000, 160_000] * 3
    law = scaling_law.fit(points)
    assert law.coefficients["a"].value == pytest.approx(0.3, abs=0.03)
    assert law.coefficients["b"].value == pytest.approx(0.4, abs=0.03)


def test_command_prints_and_draws(results, tmp_path, output):
    out = output("scaling", "--results", results, "--out", tmp_path / "law.svg")
    assert "held out: m16000, 160,000 tokens" in out and "inside" in out
    assert (tmp_path / "law.svg").stat().st_size > 5000


@pytest.mark.parametrize(
    ("method", "other", "said"),
    [
        ("cast", {"pattern": "1:4"}, r"m1000 differ in pattern \(1:4, 2:4\): a law describes one"),
        ("cast", {"calibration": "wiki-mini@128x8"}, r"calibration \(.*wiki-mini@128x8"),
        ("cast", {"dtype": "bfloat16"}, r"dtype \(.*bfloat16"),
        ("dense-ft", {"device": "cuda"}, r"device \(.*cuda"),
        ("dense-ft", {"text": "y"}, "cast and dense-ft of m1000 were measured on different texts"),
    ],
)
def test_one_law_is_of_runs_that_are_alike(tmp_path, method, other, said):
    for name in ("dense-ft", "cast"):
        write(tmp_path, name, "m1000", 1000, 10_000, np.full(12, 300.0))
    write(tmp_path, method, "m1000", 1000, 10_000, np.full(12, 900.0), seed=1, **other)
    with pytest.raises(UserError, match=said):
        scaling_law.read(tmp_path, "cast", "dense-ft")
