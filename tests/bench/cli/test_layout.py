"""Tables at any width: no word, interval or protocol is broken, nothing is lost, and no line is too long."""

import random

import pytest
from rich.cells import cell_len

from bench.cli import layout
from bench.cli.layout import Column, parts, wrap

PARTS = {
    "keep the weights": ["keep", "the", "weights"],
    "45.71 ± 0.20 (4 of 5 seeds)": ["45.71 ± 0.20", "(4 of 5 seeds)"],
    "×1.0000 [0.9849, 1.0117]": ["×1.0000 [0.9849, 1.0117]"],
    "48.0% (42.9% to 53.2%) wiki": ["48.0% (42.9% to 53.2%)", "wiki"],
    "2.2 pp (1.0 to 3.0) arc_easy": ["2.2 pp (1.0 to 3.0)", "arc_easy"],
    "wanda (5 seeds)": ["wanda", "(5 seeds)"],
    "magnitude + retrain:from=wanda": ["magnitude", "+ retrain:from=wanda"],
    "wiki-mini@128x32, 1,228,800 tokens": ["wiki-mini@128x32,", "1,228,800 tokens"],
    "13 articles; 6 seeds would decide": ["13 articles;", "6 seeds", "would", "decide"],
    "≥ 1.2M 2.23 MB": ["≥ 1.2M", "2.23 MB"],
    "acc piqa@1.0x1000": ["acc", "piqa@1.0x1000"],
    "": [],
    "(a bracket that is never closed": ["(a", "bracket", "that", "is", "never", "closed"],
}


@pytest.mark.parametrize(("text", "expected"), PARTS.items(), ids=PARTS)
def test_where_a_line_may_break(text, expected):
    assert parts(text) == expected


def test_wrapped_lines_hang():
    assert wrap("sparsegpt + maskllm:from=sparsegpt (3 seeds)", 26, 2) == [
        "sparsegpt",
        "  + maskllm:from=sparsegpt",
        "  (3 seeds)",
    ]


def test_a_word_wider_than_the_line_is_cut_in_the_middle():
    assert wrap("in /home/ada/.cache/cast-bench/models now", 12, 2) == ["in", "  /home…dels", "  now"]


CELLS = [
    *PARTS, "漢字漢字 漢字", "a", "–", "0", "ok", "failed: ValueError: expected 4 tensors, found 3 in model.safetensors",
    "00e408943a10", "2026-11-25T12:00:58Z", "wiki_continuation@1.0", "31.02 ± 0.42",
]  # fmt: skip


def drawn(columns, width):
    placed = layout.place(columns, width)
    rows = [layout.lay_out([c.cells[k] for c in columns], columns, placed) for k in range(len(columns[0].cells))]
    return placed, [["".join(p.text for p in line) for line in row] for row in rows]


def test_every_part_is_whole_at_every_width():
    draw = random.Random(0)
    for width in (*range(48, 90), 120, 160):
        count = draw.randrange(1, 12)
        columns = [
            Column(f"column {i}", [draw.choice(CELLS) for _ in range(draw.randrange(3, 4))], draw.random() < 0.5)
            for i in range(count)
        ]
        placed, rows = drawn(columns, width)
        assert sorted(p.index for line in placed for p in line) == list(range(count))
        for k, lines in enumerate(rows):
            assert all(cell_len(line.rstrip()) <= width for line in lines), lines
            text = "\n".join(lines)
            missing = [p for c in columns for p in parts(c.cells[k]) if p not in text]
            assert not missing, f"{width}: {missing} in\n{text}"


def test_a_column_that_does_not_fit_moves_to_a_second_line():
    columns = [
        Column("name", ["a" * 20, "b" * 20]),
        Column("value", ["1" * 8] * 2, True),
        Column("about", ["c" * 20, ""]),
    ]
    placed, rows = drawn(columns, 40)

    assert [[p.index for p in line] for line in placed] == [[0, 1], [2]]
    assert rows == [[f"{'a' * 20}  {'1' * 8}", f"    {'c' * 20}"], [f"{'b' * 20}  {'1' * 8}"]], "no line without text"


def test_one_line_a_row_where_it_fits():
    columns = [Column("name", ["a b"]), Column("perplexity wiki-mini@128", ["31.0"], True)]

    assert layout.place(columns, 40) == [[layout.Placed(0, 4), layout.Placed(1, 24)]]
    assert layout.place(columns, 25) == [[layout.Placed(0, 4), layout.Placed(1, 13)]], "a header in two lines"
    assert layout.place(columns, None) == [[layout.Placed(0, 4), layout.Placed(1, 24)]]


def test_a_second_line_must_save_lines():
    """Where all columns fit, long words in many rows decide; in few rows they are wrapped."""
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    few = [Column("name", ["n" * 20] * 9), Column("x", ["x" * 14] * 9), Column("about", [long] + [""] * 8)]
    many = [*few[:2], Column("about", [long] * 9)]

    assert len(layout.place(few, 60)) == 1
    assert len(layout.place(many, 60)) == 2


def test_columns_that_need_little_get_it():
    columns = [Column("a", ["corpus wikitext2-stripped"]), Column("b", [" ".join(["word"] * 40)])]
    ((first, second),) = layout.place(columns, 80)

    assert first.width == 25 and second.width == 53


def test_numbers_are_on_the_right_and_headers_at_the_bottom():
    columns = [Column("method", ["a"]), Column("top1 agreement wiki-mini@128", ["0.5"], True)]
    placed = layout.place(columns, 24)
    lines = layout.lay_out([c.header for c in columns], columns, placed, at_bottom=True)

    assert ["".join(p.text for p in line) for line in lines] == ["        top1 agreement", "method   wiki-mini@128"]
