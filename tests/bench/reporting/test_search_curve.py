"""The figure of a search: a line a method, a point a trial, none for what diverged."""

import math
import re

import pytest

from bench.reporting.drawing import LIGHT
from bench.reporting.figures import draw_search


def test_draws_a_line_and_points_for_each_method(tmp_path):
    trials = {"cast": [40.0, 30.0, 35.0], "elsa": [math.inf, 50.0, math.inf]}

    first, second = (draw_search(trials, tmp_path / name).read_text() for name in ("a.svg", "b.svg"))

    assert first == second
    assert ">cast</text>" in first and ">elsa</text>" in first
    points = re.findall(r"<g clip-path[^>]*>(.*?)</g>", first, re.S)
    assert sum(group.count("<use") for group in points) == 3 + 1


def test_all_diverged_is_an_empty_panel(tmp_path):
    assert draw_search({"cast": [math.inf]}, tmp_path / "a.svg").exists()


@pytest.mark.parametrize("count", [7, 12])
def test_each_method_has_a_color_of_its_own(tmp_path, count):
    svg = draw_search({f"m{i}": [40.0 + i] for i in range(count)}, tmp_path / "a.svg").read_text()

    assert len(set(re.findall(r'<use [^>]*stroke="(#\w{6})"', svg)) - {LIGHT["soft"]}) == count
