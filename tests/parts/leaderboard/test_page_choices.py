"""What the page's sliders read of a table."""

from bench.comparing.result_arguments import read
from bench.parts.leaderboard.page_choices import page_choices
from bench.reporting import board, pairwise
from helpers import reports


def test_only_rows_near_the_end_list_all_that_they_were_not_compared_with(tmp_path, monkeypatch):
    monkeypatch.setattr(pairwise, "MAX_PAIRED_ROWS", 2)
    (section,) = board.make_sections([read(reports.compressed(tmp_path))])
    first, *others = page_choices(section.tables[0])["rows"]
    assert first["uncompared"] == list(range(1, len(others) + 1))
    # The page would grow with the square of the rows if each listed all later ones.
    assert [row["uncompared"] for row in others] == [None, None, [4], []]
