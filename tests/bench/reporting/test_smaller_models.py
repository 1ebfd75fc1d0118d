"""A smaller dense model in the table of a larger one, by bits per byte."""

import re
import shutil

import pytest

from bench.compare.result_arguments import read
from bench.reporting import leaderboard, pareto, table_figures
from bench.reporting.smaller_models import NOT_MADE
from helpers import fake_records
from methods.contract.errors import UserError

TASKS = ("code/mbpp@3-shotx40", "code/humaneval@3-shotx40", "mathematics/gsm8k@8-shotx40")


def put(
    root,
    model,
    method="dense",
    quantizer="none",
    *,
    factor=1.0,
    mega=100,
    tasks=TASKS,
    parameters=None,
):
    """A row with tracks, a perplexity and a size."""
    about = {"method": method, "identity": {"model": model, "quantizer": quantizer}}
    fake_records.perplexity(root, **about)
    for task in tasks:
        fake_records.answers(root, task, factor, **about)
    beside = {"parameters": float(parameters or 1e6 * mega)}
    fake_records.counted(
        root, "bytes_packed", 1e6 * mega, beside=beside, **about, measure="size", protocol="weights"
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    put(root, "large", mega=400)
    put(root, "large", "wanda", factor=1.5, mega=250)
    put(root, "large", "magnitude", factor=1.9, mega=240)
    put(root, "small", factor=1.2, mega=200)
    put(root, "small", quantizer="int8", factor=1.21, mega=100, parameters=2e8)
    put(root, "small", "wanda", factor=3.0, mega=120, parameters=2e8)
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


def test_dense_rows_of_the_smaller_model_are_in_the_table_and_on_the_front(table, plain):
    names = [row.name for row in table.rows]
    column = next(
        i for i, c in enumerate(table.columns) if c.name == "mean bits per byte code, mathematics"
    )
    size = table.column("bytes_packed")

    assert names == [
        *(row.name for row in plain.rows),
        f"small ({NOT_MADE})",
        f"small int8 ({NOT_MADE})",
    ]
    ratios = {
        row.name: row.cells[column].value / table.rows[0].cells[column].value for row in table.rows
    }
    expected = {"dense": 1, "wanda 2:4": 1.5, "magnitude 2:4": 1.9, names[-2]: 1.2, names[-1]: 1.21}
    assert ratios == pytest.approx(expected)
    assert [table.value(names.index(name), size) for name in expected] == [
        4e8,
        2.5e8,
        2.4e8,
        2e8,
        1e8,
    ]
    assert not table.columns[size].hidden and plain.columns[plain.column("bytes_packed")].hidden
    (front,) = (f for f in pareto.fronts(table) if f.y is table.columns[column])
    assert [p.name for p in front.optimal] == [names[-1], names[-2], "dense"]
    assert any(NOT_MADE in note for note in table.notes)
    assert [line[0] for line in table.to_text_table().lines][-2:] == [f"small, {NOT_MADE}"] * 2


def test_what_is_compared_comes_first_and_figures_name_the_quantizer(table, plain):
    """On a phone only the first columns are seen. Ranks and intervals stay with their columns."""
    assert [c.name for c in table.columns if not c.hidden][:2] == [
        "bytes packed",
        "mean bits per byte code, mathematics",
    ]
    for one in (table, plain):
        assert [one.columns[c].metric for c in one.ranks] == ["perplexity"]
    by_name = [
        {(a, b, t.columns[c].name): x for (a, b, c), x in t.intervals.items()}
        for t in (table, plain)
    ]
    assert by_name[0] == by_name[1] != {}
    figure = next(
        f for f in table_figures.draw_all(table, "large") if "mean bits per byte" in f.title
    )
    assert re.search(r">small int8<", figure.svg) and f"small int8 ({NOT_MADE})" in figure.svg


def test_perplexities_of_two_tokenizers_are_never_compared(table):
    perplexity = table.column("perplexity")

    assert [table.rows[k].cells[perplexity] for k in (3, 4)] == [None, None]
    assert all(
        NOT_MADE not in p.name
        for f in pareto.fronts(table)
        if f.y.metric == "perplexity"
        for p in f.points
    )
    assert not [pair for pair in table.intervals if max(pair[:2]) > 2]
    assert table.ranks and all(ranks[3:] == ("", "") for ranks in table.ranks.values())


def test_the_mean_is_over_tracks_that_both_have(root, tmp_path):
    root = shutil.copytree(root, tmp_path / "models")
    put(root, "large", "sparsegpt", factor=1.0, mega=230, tasks=["knowledge/sciq@5-shotx40"])

    table = table_of(root)

    column = next(
        i for i, c in enumerate(table.columns) if c.name == "mean bits per byte code, mathematics"
    )
    (k,) = (k for k, row in enumerate(table.rows) if row.name == "sparsegpt 2:4")
    assert table.rows[k].cells[column] is None


@pytest.mark.parametrize(
    ("tasks", "name", "said"),
    [
        (
            (),
            "small",
            "none shares a measure in bits per byte with it: measure both with --measures "
            "answers,size",
        ),
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
    assert f"small, {NOT_MADE}" in text and "mean bits per byte code, mathematics" in text
