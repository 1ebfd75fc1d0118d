"""Figures of the benchmarks' page: every number is drawn or in the table."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = "benchmark_figures"
FILES = sorted((ROOT / "results/benchmarks").glob("*.json"))


@pytest.mark.parametrize(
    "file",
    [f if f.stem == "gate" else pytest.param(f, marks=pytest.mark.full) for f in FILES],
    ids=lambda f: f.stem,
)
def test_each_benchmark_has_a_picture_of_its_numbers(script, file):
    saved = json.loads(file.read_text())["figures"]
    svg = script.draw(file.stem, saved)
    assert svg.count("<title>") > 2 or not script.panels(saved)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert not [t for t in texts if "_" in t or re.search(r"\d{7}|\.\d{5}", t.replace("0.99", ""))]
    for bars in script.panels(saved).values():
        assert len({n.ratio for _, n in bars}) == 1, "ratios share no axis with other numbers"


def test_keys_and_numbers_are_for_people(script):
    assert script.readable("ours_s") == "ours, seconds"
    assert script.readable("peak_bytes_before") == "peak MB before"
    assert [script.number(x) for x in (0.03951924200009671, 96468992, 1.5, 0.999982)] == [
        "0.0395", "96,468,992", "1.5", "0.999982",
    ]  # fmt: skip


def test_a_spread_is_drawn_around_its_value_and_names_stay_text(script):
    svg = script.draw("x", {"<b>": {"median": 2.0, "min": 1.5, "max": 2.5}})
    assert "<title>&lt;b&gt;: 2× (1.5 to 2.5)</title>" in svg and "<b>" not in svg
    bar = re.search(r'd="M [\d.]+ [\d.]+ L ([\d.]+) ', svg.partition("&lt;b&gt;: 2×")[2])[1]
    low, high = re.search(
        r'd="M ([\d.]+) ([\d.]+) L ([\d.]+) \2"', svg.partition("&lt;b&gt;: 2×")[2]
    ).group(1, 3)
    assert float(low) < float(bar) < float(high)
