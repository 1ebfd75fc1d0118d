"""Figures as SVG: for a page with a strict policy, in light and dark, with the same bytes every
time."""

import re
from xml.etree import ElementTree

import pytest

from bench.reporting import drawing, pareto
from bench.reporting.view import Table, TableCell, TableColumn, TableRow


def svg_of(name, x=1 / 3, width=300):
    figure, ((axes,),) = drawing.new_figure(width, 200)
    axes.plot([0, 1], [x, 1], color=drawing.LIGHT["blue"], gid=drawing.tip(f"{name}: 2"))
    axes.set_title(name)
    return drawing.to_svg(figure, f"title of {name}")


def test_a_figure_has_no_style_and_its_colors_have_dark_ones():
    svg = svg_of("wanda")
    assert not re.search(r"style|metadata|<!--|onload", svg) and svg == svg_of("wanda")
    assert re.match(r'<svg [^>]*role="img"[^>]*><title>title of wanda</title>', svg)
    colors = set(re.findall(r'(?:fill|stroke)="(#\w+)"', svg))
    assert colors == {drawing.LIGHT[name] for name in ("paper", "ink", "soft", "line", "blue")}
    file = drawing.to_file(svg)
    ElementTree.fromstring(file)
    for light in colors:
        assert f'[stroke="{light}"]' in file.partition("prefers-color-scheme: dark")[2]


@pytest.mark.parametrize("name", ["<script>$x^2$&", "a\x1b[31mb\u202e"])
def test_a_strange_name_stays_text(name):
    root = ElementTree.fromstring(svg_of(name))
    titles = [e.text for e in root.iter() if e.tag.endswith("title")]
    assert len(titles) == 2
    assert not any(set("\x1b\u202e") & set(t) for t in titles)
    assert titles[1].endswith(": 2")
    assert not [e for e in root.iter() if e.tag.endswith("script")]


def test_coordinates_have_two_decimals_whatever_the_last_bits():
    svg = svg_of("a", 1 / 3)
    assert "clip-path" in svg
    assert svg == svg_of("a", 1 / 3 + 1e-15, width=300 + 1e-11)
    assert not re.search(r"\.\d{3}", svg)


@pytest.mark.parts("leaderboard")
def test_names_in_a_front_overlap_neither_each_other_nor_the_edge():
    from bench.parts.leaderboard import front_figure

    columns = (
        TableColumn("perplexity", "p", "lower", "1"),
        TableColumn("bytes_packed", "weights", "lower", "B"),
    )
    places = [
        (46.9, 0.85), (45.9, 1.04), (52.5, 1.04), (31.8, 0.95), (31.0, 3.74), (45.9, 2.23),
        *((40 + k, 2 + k / 9) for k in range(20)),
    ]  # fmt: skip
    rows = tuple(
        TableRow(f"sparsegpt 2:4 {i}", (), {}, (TableCell("", y, 0.5), TableCell("", 1e6 * x)))
        for i, (y, x) in enumerate(places)
    )
    (front,) = pareto.fronts(Table("t", (), columns, rows))
    figure = front_figure.draw_fronts([[front]])
    panel, labels = figure.axes[0].get_window_extent(), figure.axes[0].texts
    boxes = [label.get_window_extent() for label in labels]
    assert sum(label.get_weight() == "bold" for label in labels) == len(front.optimal)
    assert 5 < len(labels) < len(rows)
    for i, box in enumerate(boxes):
        assert panel.x0 <= box.x0
        assert box.x1 <= panel.x1
        assert not any(box.overlaps(other) for other in boxes[:i])
