"""The pictures of a training and of a search, and the figures that stand in the progress line."""

import math
import re
from pathlib import Path

import pytest

from bench.reporting import figures
from bench.reporting.drawing import LIGHT
from bench.results.record import ReadingRow, Record
from bench.results.store import Store
from helpers import fake_records, reports
from methods.contract.errors import UserError


def record(curve=None, **labels):
    about = {"kl": 0.5, "loss": 2.0, "S": 0.9, "flips": 0.01, "lr": 1e-3}
    rows = [{"step": 10.0 * k, "ce": 3.0 - 0.1 * k, "alpha": k / 5} | about for k in range(1, 6)]
    named = {"model": "tiny", "method": "cast", "pattern": "2:4", "measure": "pattern"} | labels
    notes = {"curve": rows if curve is None else curve, "validation_perplexity": {"start": 32.0}}
    identity = fake_records.identity_of(protocol="targets", **named)
    zero = ReadingRow(metric="violated_groups", value=0.0, unit="1", better="lower")
    inputs = fake_records.inputs_of(identity)
    about = {"status": "ok", "notes": notes, "key_inputs": inputs, "readings": [zero]}
    return fake_records.keyed(Record(key="", identity=identity, **about))


def test_draws_the_same_again_and_fewer_panels_for_a_curve_without_masks(tmp_path):
    names = ("a/one.svg", "two.svg", "one.png", "two.png")
    one, two, png, again = (
        figures.draw_training(record(), tmp_path / name).read_bytes() for name in names
    )
    curve = [{"step": 10.0 * k, "ce": 3.0 - k, "kl": 0.0, "lr": 1e-3 / k} for k in (1, 2)]
    assert one == two and png == again and min(len(one), len(png)) > 5000
    assert figures.draw_training(record(curve), tmp_path / "f.svg").stat().st_size < len(one)


def test_no_training_no_picture(tmp_path):
    with pytest.raises(UserError, match="has no training"):
        figures.draw_training(record([]), tmp_path / "f.svg")


def test_command(tmp_path, output):
    Store(tmp_path / "r").write(record())
    line = ("figure", record().short_key, "--results", tmp_path / "r", "--out", tmp_path / "f.svg")
    assert Path(output(*line).strip()).exists()


@pytest.fixture
def rows(tmp_path):
    fake_records.perplexity(tmp_path / "r", method="dense")
    fake_records.perplexity(tmp_path / "r", 0.1, method="wanda")
    fake_records.perplexity(tmp_path / "r", 0.2, method="magnitude", noise=1)
    return tmp_path / "r"


@pytest.mark.parametrize(
    ("words", "drawn"),
    [
        (("tiny",), ("perplexity ratio to dense", "×1.105", "wanda 2:4")),
        (("tiny", "--metric", "perplexity"), ("perplexity wiki-mini@128", "magnitude 2:4")),
        (("wanda", "magnitude"), ("magnitude / wanda, 95% interval", "perplexity")),
    ],
    ids=["ratios", "metric", "pair"],
)
def test_the_command_draws_a_table_and_a_pair(rows, output, tmp_path, words, drawn):
    output("figure", *words, "--results", rows, "--out", tmp_path / "f.svg")
    text = (tmp_path / "f.svg").read_text()
    assert [word for word in drawn if word not in text] == []


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_a_figure_replaces_the_file_only_when_it_is_complete(suffix, tmp_path, monkeypatch):
    file = tmp_path / f"f.{suffix}"
    file.write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            figures.draw_training(record(), file)
    assert file.read_text() == "before"
    figures.draw_training(record(), file)
    assert file.stat().st_size > 5000 and list(tmp_path.iterdir()) == [file]


def test_a_table_without_ratios_says_what_is_missing(refused, tmp_path):
    fake_records.perplexity(tmp_path / "r", method="wanda")
    err = refused("figure", "tiny", "--results", tmp_path / "r", "--out", tmp_path / "f.svg")
    assert "neither a ranked column nor 2 rows with a ratio" in err
    assert "--metric (perplexity" in err


@pytest.mark.parts("leaderboard")
def test_title_and_rows_from_papers_are_settings(rows, output, tmp_path, in_tmp_path):
    papers = reports.published(tmp_path / "papers")
    line = ("report", "--results", rows, "--out", tmp_path / "page", "--title", "Our *models*")
    for folder, has_papers in ((papers, True), ("none", False)):
        output(*line, "--papers", folder)
        text = (tmp_path / "page/leaderboard.md").read_text()
        assert text.startswith("# Our \\*models\\*\n")
        assert ("Published by others" in text) is has_papers
        assert "<title>Our *models*</title>" in (tmp_path / "page/leaderboard.html").read_text()


def test_a_search_is_a_line_and_points_for_each_method(tmp_path):
    trials = {"cast": [40.0, 30.0, 35.0], "elsa": [math.inf, 50.0, math.inf]}
    first, second = (
        figures.draw_search(trials, tmp_path / name).read_text() for name in ("a.svg", "b.svg")
    )
    assert first == second
    assert ">cast</text>" in first and ">elsa</text>" in first
    points = re.findall(r"<g clip-path[^>]*>(.*?)</g>", first, re.S)
    assert sum(group.count("<use") for group in points) == 3 + 1


def test_a_search_that_all_diverged_is_an_empty_panel(tmp_path):
    assert figures.draw_search({"cast": [math.inf]}, tmp_path / "a.svg").exists()


@pytest.mark.parametrize("count", [7, 12])
def test_each_method_of_a_search_has_a_color_of_its_own(tmp_path, count):
    trials = {f"m{i}": [40.0 + i] for i in range(count)}
    svg = figures.draw_search(trials, tmp_path / "a.svg").read_text()
    assert len(set(re.findall(r'<use [^>]*stroke="(#\w{6})"', svg)) - {LIGHT["soft"]}) == count
