"""A smaller dense model in the table of a larger one, by bits per byte."""

import re
import shutil

import pytest

from bench.comparing.result_arguments import read
from bench.parts.leaderboard import board_files as leaderboard
from bench.parts.leaderboard import table_figures
from bench.parts.leaderboard.smaller_models import NOT_MADE
from bench.reporting import pareto
from helpers import fake_records
from methods.contract.errors import UserError

TASKS = ("code/mbpp@3-shotx40", "code/humaneval@3-shotx40", "mathematics/gsm8k@8-shotx40")


MEAN = "mean bits per byte code, mathematics"


def put(root, model, method="dense", quantizer="none", *, factor=1.0, mega=100, tasks=TASKS):
    """A row with tracks, a perplexity and a size."""
    about = {"method": method, "identity": {"model": model, "quantizer": quantizer}}
    fake_records.perplexity(root, **about)
    for task in tasks:
        fake_records.answers(root, task, factor, **about)
    about |= {"measure": "size", "protocol": "weights"}
    about["beside"] = {"parameters": {"small": 2e8, "large": 4e8}[model]}
    fake_records.counted(root, "bytes_packed", 1e6 * mega, **about)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    put(root, "large", mega=400)
    put(root, "large", "wanda", factor=1.5, mega=250)
    put(root, "large", "magnitude", factor=1.9, mega=240)
    put(root, "small", factor=1.2, mega=200)
    put(root, "small", quantizer="int8", factor=1.21, mega=100)
    put(root, "small", "wanda", factor=3.0, mega=120)
    return root


@pytest.fixture(scope="module")
def table(root):
    """The table of the larger model, with the smaller one."""
    return table_of(root)


@pytest.fixture(scope="module")
def plain(root):
    """The same without the smaller one."""
    return table_of(root, "")


def table_of(root, smaller="small"):
    (large, *_) = leaderboard.make_sections([read(root)], None, smaller)
    assert large.title == "large"
    return large.tables[0]


def column_of_means(table):
    return next(i for i, column in enumerate(table.columns) if column.name == MEAN)


def test_dense_rows_of_the_smaller_model_are_in_the_table_and_on_the_front(table, plain):
    names = [row.name for row in table.rows]
    column, size = column_of_means(table), table.column("bytes_packed")

    smaller = [f"small ({NOT_MADE})", f"small int8 ({NOT_MADE})"]
    assert names == [row.name for row in plain.rows] + smaller
    dense = table.value(0, column)
    found = {
        name: (table.value(k, column) / dense, table.value(k, size)) for k, name in enumerate(names)
    }
    assert found == {
        "dense": (1.0, 4e8),
        "wanda 2:4": (pytest.approx(1.5), 2.5e8),
        "magnitude 2:4": (pytest.approx(1.9), 2.4e8),
        names[-2]: (pytest.approx(1.2), 2e8),
        names[-1]: (pytest.approx(1.21), 1e8),
    }
    assert not table.columns[size].hidden
    (front,) = (f for f in pareto.fronts(table) if f.y is table.columns[column])
    assert [p.name for p in front.optimal] == [names[-1], names[-2], "dense"]
    assert any(NOT_MADE in note for note in table.notes)
    assert [line[0] for line in table.to_text_table().lines][-2:] == [f"small, {NOT_MADE}"] * 2


def test_what_is_compared_comes_first_and_figures_name_the_quantizer(table, plain):
    """On a phone only the first columns are seen. Ranks and intervals stay with their columns."""
    assert [c.name for c in table.columns if not c.hidden][:2] == ["bytes packed", MEAN]
    by_name = []
    for one in (table, plain):
        assert one.columns[one.ranked_by].metric == "perplexity"
        by_name.append({(a, b, one.columns[c].name): x for (a, b, c), x in one.intervals.items()})
    assert by_name[0] == by_name[1] != {}
    figures = table_figures.draw_all(table, "large")
    svg = next(f.svg for f in figures if "mean bits per byte" in f.title)
    assert ">small int8<" in svg and f"small int8 ({NOT_MADE})" in svg


def test_perplexities_of_two_tokenizers_are_never_compared(table):
    perplexity = table.column("perplexity")
    assert [table.rows[k].cells[perplexity] for k in (3, 4)] == [None, None]
    for front in pareto.fronts(table):
        if front.y.metric == "perplexity":
            assert not any(NOT_MADE in point.name for point in front.points)
    assert not [pair for pair in table.intervals if max(pair[:2]) > 2]
    assert table.ranks and all(ranks[3:] == ("", "") for ranks in table.ranks.values())


def test_the_mean_is_over_tracks_that_both_have(root, tmp_path):
    root = shutil.copytree(root, tmp_path / "models")
    put(root, "large", "sparsegpt", factor=1.0, mega=230, tasks=["knowledge/sciq@5-shotx40"])
    table = table_of(root)
    (row,) = (row for row in table.rows if row.name == "sparsegpt 2:4")
    assert row.cells[column_of_means(table)] is None


@pytest.mark.parametrize(
    ("tasks", "name", "said"),
    [
        ((), "small", "measure both with --measures answers,size"),
        (["code/mbpp@3-shotx80"], "small", "none shares a measure"),
        (TASKS, "large", "no larger model can be compared with large"),
        (TASKS, "smol", "unknown model with records 'smol'"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, tasks, name, said):
    put(tmp_path, "large", mega=400)
    put(tmp_path, "small", mega=200, tasks=tasks)
    with pytest.raises(UserError, match=re.escape(said)):
        table_of(tmp_path, name)


def test_command_writes_the_page(root, cli, tmp_path):
    line = ("report", "--results", root, "--papers", "none", "--smaller", "small")
    assert cli(*line, "--out", tmp_path / "page")[0] == 0
    text = (tmp_path / "page" / "leaderboard.md").read_text()
    assert f"small, {NOT_MADE}" in text and MEAN in text
