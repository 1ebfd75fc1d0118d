"""How a comparison is printed."""

import json
import math
import re

import pytest

from bench.comparing import gate_settings, render, result_arguments, verdict
from bench.reporting import drawing, forest
from bench.reporting.facts import Bound
from helpers import fake_records


def test_an_unchanged_number_is_the_same_however_it_was_compared(tmp_path):
    """Perplexity under one key only has to be reproduced; bytes are compared. Nothing is sampled,
    so no interval is spoken of."""
    fake_records.perplexity(tmp_path, seed=0)
    fake_records.counted(tmp_path, "bytes_packed", 2.2e6, seed=0, measure="size")
    results = result_arguments.read(tmp_path)
    itself = verdict.compare(results, results, gate_settings.read(None))
    changes = {row.metric: render.format_change(row) for row in itself.rows}
    assert changes == {"perplexity": "same", "bytes_packed": "same", "sparsity": "same"}
    text = render.to_markdown(itself, "bench gate passed")
    assert text.startswith("### bench gate passed\n\n<details>") and "sampled" not in text


def compared(root):
    """The folders a and b."""
    return verdict.compare(
        *(result_arguments.read(root / name) for name in "ab"), gate_settings.read(None)
    )


def test_an_interval_that_says_nothing_is_not_shown(tmp_path):
    """A noise of 8 nats between seeds gives ratios up to e^22."""
    fake_records.perplexity(tmp_path / "a", seed=0)
    fake_records.perplexity(tmp_path / "b", 2.0, 0.2, made="b", noise=1, seed=0)
    settings = gate_settings.read(None).model_copy(update={"seed_noise": {"perplexity": 8.0}})
    sides = (result_arguments.read(tmp_path / name) for name in "ab")
    found = verdict.compare(*sides, settings)
    (row,) = found.rows
    cells = render.cells(row)
    (said,) = json.loads(render.to_json(found))["rows"]

    assert row.verdict == "INCONCLUSIVE"
    assert (row.estimate.low, row.estimate.high) == (-math.inf, math.inf)
    assert cells["change"] == f"×{row.effect[0]:.4f}, no interval"
    assert cells["about"].endswith("articles; too few for an interval: measure more")
    assert said["high"] is None and said["n_needed"] is None
    assert forest.draw_pair(found.rows, tmp_path / "pair.svg", "a", "b").exists()


@pytest.mark.parametrize("articles", [1, 11])
def test_few_articles_have_no_interval(tmp_path, monkeypatch, articles):
    monkeypatch.setattr(fake_records, "ARTICLES", articles)
    fake_records.perplexity(tmp_path / "a")
    fake_records.perplexity(tmp_path / "b", 2.0, 0.2, made="b", noise=1)
    (row,) = compared(tmp_path).rows
    assert row.verdict == "NOT_COMPARABLE"
    assert row.reason.startswith(f"no interval: {articles} article")


def test_a_small_ratio_has_its_digits_and_from_0_there_is_no_ratio(tmp_path):
    for noise, (name, loss, count) in enumerate((("a", 9.0, 0.0), ("b", 0.0, 1e9))):
        fake_records.perplexity(tmp_path / name, loss, made=name, noise=noise)
        fake_records.counted(tmp_path / name, "bytes_packed", count, made=name)
    changes = {row.metric: render.format_change(row) for row in compared(tmp_path).rows}
    assert re.match(r"×0\.0001\d+ \[0\.0001\d+, ", changes["perplexity"])
    assert changes["bytes_packed"] == "+1000000000.0000"


def test_a_figure_is_not_sure_of_a_value_without_an_interval():
    bounds = Bound(1.3), Bound(1.3, 1.2, 1.4), Bound(1.3, 0.9, 1.4)
    figure = forest.draw_forest(list(zip(("bare", "sure", "tied"), bounds, strict=True)))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [dot.get_color() == drawing.BLUE for dot in dots] == [False, True, False]


def test_a_figure_that_leaves_rows_out_says_so_inside_its_edge():
    count = forest.MAX_FOREST_ROWS + 1
    rows = [(f"sparsegpt + recon + retrain m{k}", Bound(1 + k / 10)) for k in range(count)]
    figure = forest.draw_forest(rows)
    figure.canvas.draw()
    label = figure.axes[0].xaxis.label
    assert label.get_text().endswith("first 40 of 41 rows (log)")
    assert label.get_window_extent().x1 <= figure.bbox.x1
