"""Tables in a terminal: no word is cut, and what does not fit is printed in blocks."""

import re

import pytest

from bench.cli import console


@pytest.fixture
def terminal(monkeypatch):
    """terminal(width): stdout is a terminal that is so wide."""

    def set_width(width):
        monkeypatch.setattr(console.sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))

    return set_width


ROWS = [
    {"name": "llmcompressor-sparsegpt", "about": "SparseGPT of another library, with its own code", "tokens": 12345},
    {"name": "wanda", "about": "", "tokens": 7},
]


@pytest.fixture
def printed(capsys):
    """printed(): what stands on the screen."""
    return lambda: re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def words(text):
    return {word.strip("│┃┡╇┩┏┳┓━└┴┘") for word in text.split()} - {""}


def test_a_table_that_fits_has_one_line_for_each_row(terminal, printed):
    terminal(100)
    console.print_rows(ROWS, as_json=False)
    out = printed()

    assert len(out.splitlines()) == 6 and "12,345" in out


def test_a_narrow_table_wraps_between_words(terminal, printed):
    terminal(60)
    console.print_rows(ROWS, as_json=False)
    out = printed()

    assert "┏" in out and max(map(len, out.splitlines())) <= 60
    assert {"llmcompressor-sparsegpt", "12,345", *ROWS[0]["about"].split()} <= words(out)


def test_what_does_not_fit_is_printed_in_blocks(terminal, printed):
    terminal(40)
    console.print_rows(ROWS, as_json=False)
    out = printed()

    assert "┏" not in out and max(map(len, out.splitlines())) <= 40
    assert {"llmcompressor-sparsegpt", "12,345", *ROWS[0]["about"].split()} <= words(out)
    assert out.count("about") == 1, "an empty cell is left out"


def test_a_file_gets_a_table_whatever_its_width(printed):
    rows = [{f"column{i}": f"a-word-of-the-cell-{i}" for i in range(30)}]
    console.print_rows(rows, as_json=False)
    out = printed()

    assert "┏" in out and "a-word-of-the-cell-29" in out


def test_widths_fill_what_is_available():
    columns = [["a", "12345678901234"], ["long", "one two three four five six seven eight"], ["x", "y"]]

    assert console.column_widths(columns, 100) == [14, 39, 1]
    assert console.column_widths(columns, 30) == [14, 15, 1]
    assert console.column_widths(columns, 19) is None
