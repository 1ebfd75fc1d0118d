"""Fidelity in reports: rows with KL as a table and a figure, with their intervals."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from bench.comparing import result_arguments
from bench.parts.fidelity import in_reports
from bench.reporting import board
from bench.reporting.view import TableCell
from bench.results.record import Item, ReadingRow
from helpers import fake_records

pytestmark = pytest.mark.usefixtures("cache")
KL = {"dense": 0.001, "magnitude": 0.5, "wanda": 0.25, "sparsegpt": 0.125}
BITS = {"dense": 16.0, "magnitude": 9.0, "wanda": 9.0, "sparsegpt": 17.0}


def agreement(root, method, mean):
    """Write the KL of 120 windows of 30 articles."""
    spread = np.random.default_rng(0).normal(1, 0.1, 30)
    values = 127 * mean * np.repeat(spread / spread.mean(), 4)
    items = [
        Item(str(i), str(i // 4), float(v), 127.0, {"top1_agreement": 100.0})
        for i, v in enumerate(values)
    ]
    means = values / 127
    stderr = float(means.std(ddof=1)) / len(items) ** 0.5
    rows = [
        ReadingRow(metric="kl", value=float(values.sum() / 127 / len(items)), unit="nats/token",
                   better="lower", stderr=stderr, n=len(items)),
        ReadingRow(metric="top1_agreement", value=100 / 127, unit="1", better="higher",
                   stderr=0.0, n=len(items)),
    ]  # fmt: skip
    record = fake_records.record(method=method, measure="agreement", token_digest="t")
    return fake_records.put(root, record, items, rows)


@pytest.fixture
def table(tmp_path):
    root = tmp_path / "r"
    for method, mean in KL.items():
        agreement(root, method, mean)
        fake_records.perplexity(root, method=method, loss=mean)
        fake_records.counted(root, "bits_per_weight", BITS[method], method=method)
    (section,) = board.make_sections([result_arguments.read(root)])
    return section.tables[0]


def test_rows_are_by_kl_with_intervals(table):
    (text,) = in_reports.text_tables(table)
    (best, *_) = sorted(in_reports.points_of(table), key=lambda p: p.kl)

    assert text.headers == ["row", "bits per weight", "KL", "same top token"]
    assert [line[0] for line in text.lines] == ["sparsegpt 2:4", "wanda 2:4", "magnitude 2:4"]
    assert [line[1] for line in text.lines] == ["17", "9", "9"]
    assert best.low < best.kl < best.high
    assert best.high - best.low == pytest.approx(4 * 0.125 * 0.1 / 30**0.5, rel=0.3)


def test_the_figure_has_the_floor_and_names_the_best(table):
    points, floor = in_reports.shows(table)
    figure = in_reports.draw(points, floor)
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts]

    assert axes.get_yscale() == "log"
    assert set(names) == {"wanda 2:4", "sparsegpt 2:4", "floor"}
    assert floor == pytest.approx(0.001)


def test_names_of_near_points_hide_nothing():
    places = {
        "dense tcq3": (3.0, 0.231),
        "dense int4-gptq": (4.1, 0.224),
        "dense nvfp4": (4.5, 0.202),
        "awq dense nvfp4": (4.5, 0.141),
        "dense int8": (9.0, 0.01),
    }
    points = [
        in_reports.Point(k, name, *place, None, None)
        for k, (name, place) in enumerate(places.items())
    ]
    figure = in_reports.draw(points, 0.0)
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]

    assert {text.get_text() for text in axes.texts} == places.keys() - {"dense nvfp4"}
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    for point in axes.transData.transform(list(places.values())):
        assert not any(box.contains(*point) for box in boxes)


def test_a_row_within_the_floor_says_so(table):
    dense = table.rows[in_reports._dense(table)]
    column = table.column("kl")
    cells = list(dense.cells)
    cells[column] = TableCell("0.2", 0.2)
    far = replace(dense, cells=tuple(cells))
    rows = tuple(far if row is dense else row for row in table.rows)
    (text,) = in_reports.text_tables(replace(table, rows=rows))
    assert [line[-1] for line in text.lines] == ["yes", "", ""]


def test_a_table_without_kl_shows_nothing(tmp_path):
    fake_records.perplexity(tmp_path / "r", method="wanda")
    (section,) = board.make_sections([result_arguments.read(tmp_path / "r")])
    assert in_reports.text_tables(section.tables[0]) == []
    assert in_reports.shows(section.tables[0]) is None


def test_a_report_has_both(tmp_path, output):
    for method, mean in KL.items():
        agreement(tmp_path / "r", method, mean)
        fake_records.perplexity(tmp_path / "r", method=method, loss=mean)
        fake_records.counted(tmp_path / "r", "bits_per_weight", BITS[method], method=method)
    output("report", "--results", tmp_path / "r", "--out", tmp_path / "o", "--papers", "none")
    text = (tmp_path / "o/leaderboard.md").read_text()

    assert "#### Fidelity: tiny" in text and in_reports.TABLE_CAPTION in text
    assert "KL against bits](leaderboard-tiny-" in text


def test_the_file_that_is_the_original_is_no_row(table):
    *others, last = table.rows
    file = replace(last, filters=last.filters | {"quantizer": "Q4_1 file"})
    names = {point.name for point in in_reports.points_of(table)}
    left = {p.name for p in in_reports.points_of(replace(table, rows=(*others, file)))}
    assert names - left == {file.name}
