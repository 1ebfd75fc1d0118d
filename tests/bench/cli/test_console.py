"""Tables and lines as they are printed: in a terminal of some width, and in a file."""

import json

import pytest

from bench.cli import console, tables
from bench.system import terminal as streams
from helpers import terminal


@pytest.fixture
def printed(capsys, monkeypatch):
    """printed(width, rows) -> the table; width None: in a file."""

    def run(width, rows):
        if width:
            terminal.open_terminal(monkeypatch, width)
        console.print_rows(rows, as_json=False)
        return capsys.readouterr().out

    return run


def test_a_cell_of_any_length_is_cut_in_the_middle(printed):
    out = printed(None, [{"name": "a" * 10_000, "about": "x"}])

    assert "a…a" in out and max(map(len, out.splitlines())) == tables.MAX_CELL + 7


def test_no_line_of_a_table_is_a_command_to_github(printed):
    out = printed(None, [{"name": "::error::x", "about": "##[add-path]y"}])

    assert out.splitlines()[2] == ": :error::x  ## [add-path]y"


def test_a_column_without_text_is_left_out(printed):
    rows = [{"name": "wanda", "moved": "", "seeds": None}, {"name": "ria", "moved": "", "seeds": 3}]

    assert printed(80, rows).splitlines()[0] == "name   seeds"
    assert printed(80, rows[:1]).splitlines()[0] == "name"


@pytest.mark.parametrize("order", [1, -1])
def test_a_row_without_numbers_hides_no_column(printed, order):
    """`bench speed` has no times of a linear that no kernel takes."""
    rows = [{"kind": "int8", "us": 12, "status": "ok"}, {"kind": "int4", "status": "skipped"}]
    lines = printed(None, rows[::order]).splitlines()

    assert lines[0].split() == ["kind", "us", "status"]
    assert sorted(line.split() for line in lines[2:]) == [["int4", "skipped"], ["int8", "12", "ok"]]


def test_counts_of_one_column_are_written_alike(printed):
    lines = printed(None, [{"tokens": 9999}, {"tokens": 12345}]).splitlines()

    assert lines[2:] == [" 9,999", "12,345"]


def test_a_table_has_six_digits_of_a_number(printed):
    rows = [{"value": value} for value in (55.598923871144486, 3740160.0, 0.5, 17.0, float("inf"))]

    lines = printed(None, rows).splitlines()[2:]
    assert " ".join(lines).split() == ["55.5989", "3,740,160", "0.5", "17.0", "inf"]


@pytest.mark.parametrize("text", ["a\nb\x1b[2J", "::error::x"])
def test_a_line_is_one_line(capsys, text):
    streams.make_output_printable()
    console.print_line(text)
    console.print_line(text, err=True)
    out, err = capsys.readouterr()

    assert out == err and out.count("\n") == 1 and "\x1b" not in out and not out.startswith("::")


def test_json_keeps_its_value(capsys):
    console.print_json(json.dumps({"a": "\x9b\u202e"}, ensure_ascii=False))

    assert (out := capsys.readouterr().out).isascii() and json.loads(out) == {"a": "\x9b\u202e"}
