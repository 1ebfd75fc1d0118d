"""Tables at any width: nothing is lost, no line is too long, and numbers stay whole."""

import random

import pytest
from rich.cells import cell_len

from bench.cli.tables import arrange, print_table
from helpers import terminal

CELLS = [
    "45.71 ± 0.20 (4 of 5 seeds)", "×1.0000 [0.9849, 1.0117]", "48.0% (42.9% to 53.2%) wiki",
    "漢字漢字 漢字", "a", "–", "", "00e408943a10", "wiki_continuation@1.0",
    "failed: ValueError: expected 4 tensors, found 3 in model.safetensors",
]  # fmt: skip


@pytest.fixture
def printed(capsys, monkeypatch):
    """printed(width, headers, rows, right) -> the lines; width None: in a file."""

    def call(width, headers, rows, right):
        if width:
            terminal.open_terminal(monkeypatch, width)
        print_table(headers, rows, right)
        return capsys.readouterr().out.splitlines()

    return call


@pytest.mark.parametrize("width", [48, 80, 120])
def test_nothing_is_lost_and_no_line_is_too_long(printed, width):
    draw = random.Random(width)
    for _ in range(15):
        count = draw.randrange(1, 12)
        rows = [[draw.choice(CELLS) for _ in range(count)] for _ in range(3)]
        headers = [f"column {i}" for i in range(count)]
        lines = printed(width, headers, rows, [draw.random() < 0.5 for _ in range(count)])

        assert all(cell_len(line) <= width for line in lines), lines
        words = {word for row in rows for word in " ".join(row).split()}
        assert words <= set(" ".join(lines).split()), lines


@pytest.mark.parametrize(
    ("natural", "width", "lines"),
    [
        ([4, 13], 20, [[(0, 4), (1, 13)]]),
        ([4, 13], None, [[(0, 4), (1, 13)]]),
        ([20, 8, 20], 40, [[(0, 20), (1, 8)], [(2, 20)]]),
        ([25, 200], 80, [[(0, 25), (1, 53)]]),
        ([30, 12, 30], 80, [[(0, 30), (1, 12), (2, 30)]]),
        ([40, 12, 40], 70, [[(0, 40), (1, 12)], [(2, 40)]]),
        ([100], 40, [[(0, 40)]]),
    ],
)  # fmt: skip
def test_columns_move_to_another_line_where_they_do_not_fit(natural, width, lines):
    assert arrange(natural, natural, natural, width) == lines


def test_short_words_of_a_header_are_wrapped_before_a_column_moves_to_another_line(printed):
    """The table of `bench run --measures perplexity,size` on a terminal of 80 columns."""
    headers = "method|pattern|perplexity wiki-mini@128x2|sparsity|violated groups|bytes packed"
    row = ["wanda (3 seeds)", "2:4", "55.3 ± 1.4", "0.5", "0", "2.2 MB", "17"]
    right = [False, False, *[True] * 5]
    lines = printed(80, [*headers.split("|"), "bits per weight"], [row], right)

    assert " ".join(lines[-1].split()) == "wanda (3 seeds) 2:4 55.3 ± 1.4 0.5 0 2.2 MB 17"
    assert [line.split()[-1] for line in lines[:3]] == ["bits", "per", "weight"]
