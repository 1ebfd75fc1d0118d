"""Rows from papers: each has a source, and a caveat shows."""

import os
from pathlib import Path

import pytest

from bench.reporting import from_papers
from helpers import reports
from methods.contract.errors import UserError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("PermLLM,calibrated", ",calibrated", r"line \d+: invalid source"),
        ("12.16", "twelve", r"line \d+: invalid perplexity"),
        ("12.16", "nan", r"line \d+: invalid perplexity"),
        ("12.16", "1e-400", r"line \d+: invalid perplexity = '1e-400': must be at least 1"),
        (",note\n", ",notes\n", "has no column 'note'"),
        ("PermLLM,calibrated", "PermLLM,2025,calibrated", "more values than the header has"),
    ],
)
def test_a_published_row_without_a_source_or_with_other_columns_is_refused(
    tmp_path, old, new, said
):
    folder = reports.published(tmp_path, reports.PUBLISHED.replace(old, new))
    with pytest.raises(UserError, match=rf"papers\.csv.*{said}"):
        from_papers.make_section(folder)


def test_the_mark_that_a_spreadsheet_writes_is_no_part_of_the_header(tmp_path):
    folders = (
        reports.published(tmp_path / "a", "\ufeff" + reports.PUBLISHED),
        reports.published(tmp_path / "b"),
    )
    one, other = map(from_papers.make_section, folders)
    assert one == other


@pytest.mark.parametrize(
    "damage",
    [lambda text: text.replace("note", "n\u00f6te").encode("latin-1"), lambda text: b"a" * 2**18],
)
def test_a_published_file_that_is_none_is_refused(tmp_path, damage):
    folder = reports.published(tmp_path)
    (folder / "papers.csv").write_bytes(damage(reports.PUBLISHED))
    with pytest.raises(UserError, match=r"cannot be read after line 0 .* save it as CSV in UTF-8"):
        from_papers.make_section(folder)


def test_a_pipe_is_not_read(tmp_path):
    folder = reports.published(tmp_path)
    os.mkfifo(folder / "x.csv")
    with pytest.raises(UserError, match=r"x\.csv is not a regular file"):
        from_papers.make_section(folder)


def test_what_papers_report_here_has_its_sources():
    rows = from_papers.read_rows(ROOT / "bench/assets/published/2of4.csv")
    assert len(rows) == 142 and all(r.source for r in rows)
    assert {bool(r.zero_shot_tasks) == (r.zero_shot_mean is not None) for r in rows} == {True}
    assert [r.method for r in rows if r.caveat] == ["sparseforge_5B"]


def test_formats_of_papers_have_their_quantizer_and_a_dense_row_of_their_protocol():
    rows = from_papers.read_rows(ROOT / "bench/assets/published/bits.csv")
    assert len(rows) == 51 and {row.model for row in rows} == {"LLaMA2-7B", "LLaMA3-8B"}
    section = from_papers.make_section(ROOT / "bench/assets/published")
    wanted = ("LLaMA3-8B", "wikitext2@512")
    (table,) = [t for t in section.tables if (t.title, t.protocol) == wanted]
    dense, best = table.rows[:2]
    assert best.labels[:3] == ("llama.cpp", "dense", "q6_K") and dense.cells[1] is None
    assert best.cells[1].value == pytest.approx(6.2534 / 6.2332)


def test_a_caveat_marks_its_row(tmp_path):
    text = reports.PUBLISHED.replace("note\n", "note,caveat\n").replace(
        "calibrated on C4", "calibrated on C4,saw the tasks"
    )
    section = from_papers.make_section(reports.published(tmp_path, text))
    marked = [r for t in section.tables for r in t.rows if "‡" in r.labels[0]]
    assert [r.labels[0] for r in marked] == ["wanda ‡"]
    assert marked[0].source.endswith("‡ saw the tasks")
    assert "‡" in section.description
