"""Figures of the benchmarks' page: every number is drawn or in the table, in words and units of people."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results/benchmarks").glob("*.json"))


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("benchmark_figures", ROOT / "scripts/benchmark_figures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_each_benchmark_has_a_picture_of_its_numbers(figures, file):
    saved = json.loads(file.read_text())["figures"]
    svg = figures.draw(file.stem, saved)
    assert svg == figures.draw(file.stem, saved) and svg.count("<g>") >= 2
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert not [t for t in texts if "_" in t or re.search(r"\d{7}|\.\d{5}", t.replace("0.99", ""))]
    for bars in figures.panels(saved).values():
        assert len({n.ratio for _, n in bars}) == 1, "ratios share no axis with other numbers"


def test_keys_and_numbers_are_for_people(figures):
    assert figures.readable("ours_s") == "ours, seconds" and figures.readable("peak_bytes_before") == "peak MB before"
    assert [figures.number(x) for x in (0.03951924200009671, 96468992, 1.5, 0.999982)] == [
        "0.0395",
        "96,468,992",
        "1.5",
        "0.999982",
    ]


def test_names_stay_text(figures):
    svg = figures.draw("a&b", {"<b>": {"median": 1.0, "min": 0.5, "max": 2.0}})
    assert "<b>" not in svg and "&lt;b&gt;" in svg and "a&amp;b" in svg


def test_a_spread_is_drawn_around_its_value(figures):
    svg = figures.draw("x", {"a / b": {"median": 2.0, "min": 1.5, "max": 2.5}})
    (bar,) = re.findall(r'class="fill" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    low, high = re.search(r'd="M([\d.]+) [\d.]+H([\d.]+)M', svg).groups()
    assert float(low) < float(bar[0]) + float(bar[1]) < float(high)
