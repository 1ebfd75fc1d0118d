"""The profile: what each track loses, in which order, which answers flip, and how rows are picked
by it."""

import shutil
from dataclasses import replace

import pytest

from bench.comparing.result_arguments import read
from bench.reporting import board, candidates, profile
from bench.reporting.facts import Bound, TrackLoss
from bench.reporting.limits import parse_limits
from bench.stats.ratios import Change
from helpers import fake_records
from methods.contract.errors import UserError

TASKS = (
    "code/mbpp@3-shotx40",
    "code/humaneval@3-shotx40",
    "mathematics/gsm8k@8-shotx40",
    "knowledge/sciq@5-shotx40",
)
LOSSES = {"wanda": (1.5, 1.3, 1.2, 1.19), "sparsegpt": (1.1, 1.1, 1.05, 1.0)}


pytestmark = pytest.mark.usefixtures("known_noise")


@pytest.fixture(scope="module")
def root(tmp_path_factory, known_noise):
    root = tmp_path_factory.mktemp("profile")
    fake_records.perplexity(root, method="dense")
    for task in TASKS:
        fake_records.answers(root, task, method="dense")
    for k, (method, factors) in enumerate(LOSSES.items()):
        about = {"method": method, "seed": 0}
        fake_records.perplexity(root, 0.1 + k, **about)
        layers = [fake_records.Item("layer", "layer", 9.0 - k, 1.0)]
        fake_records.bits(root, 9.0 - k, items=layers, **about)
        for task, factor in zip(TASKS, factors, strict=True):
            fake_records.answers(root, task, factor, noise=0.03, lost=6, gained=2, **about)
    return root


def table_of(root):
    return board.make_sections([read(root)])[0].tables[0]


@pytest.fixture(scope="module")
def table(root):
    return table_of(root)


def facts_of(table, name):
    return next(row.facts for row in table.rows if row.name == name)


def test_losses_are_means_over_tasks_and_the_worst_is_in_the_leaderboard(table):
    facts = facts_of(table, "wanda 2:4")

    assert list(facts.tracks) == ["knowledge", "mathematics", "code"]
    expected = {"code": 0.4, "mathematics": 0.2, "knowledge": 0.19}
    assert {n: x.loss.value for n, x in facts.tracks.items()} == pytest.approx(expected, abs=0.02)
    assert facts.worst_track == "code"
    assert facts.track_loss.low <= facts.tracks["code"].loss.low < 0.4
    assert facts.track_loss.high > facts.tracks["code"].loss.high, "it is the worst of several"
    flips = facts.tracks["code"].flips
    assert (flips.changed.value, flips.lost, flips.gained) == (0.2, 0.15, 0.05)
    assert flips.changed.low < 0.2 < flips.changed.high
    column = table.column("worst_track")
    (row,) = (r for r in table.rows if r.name == "wanda 2:4")
    assert not table.columns[column].hidden and row.cells[column].text.endswith("code")
    assert facts_of(table, "dense").tracks == {}
    names = [c.name for c in table.columns]
    assert "mean bits per byte code: 2 tasks, 80 questions" in names
    assert not any("mbpp" in n for n in names)


def test_the_order_has_ties(table):
    tied, ordered = (facts_of(table, f"{name} 2:4").tracks for name in LOSSES)
    assert profile.order(tied) == "code 1, mathematics 2–3, knowledge 2–3"
    assert profile.order(ordered) == "code 1, mathematics 2, knowledge 3"


def test_only_the_same_tasks_are_compared(root, tmp_path):
    root = shutil.copytree(root, tmp_path / "profile")
    fake_records.answers(root, "mathematics/gsm8k@8-shotx20", n=20, method="wanda", seed=0)
    assert list(facts_of(table_of(root), "wanda 2:4").tracks) == ["knowledge", "code"]


def test_a_task_with_two_limits_does_not_count_twice(tmp_path):
    factors = {
        "code/mbpp@3-shotx40": 1.4,
        "code/mbpp@3-shotx20": 1.1,
        "knowledge/arc@0-shotx40": 1.2,
    }
    for task, factor in factors.items():
        about = {"n": int(task[-2:]), "noise": 0.03}
        fake_records.answers(tmp_path, task, method="dense", **about)
        fake_records.answers(tmp_path, task, factor, seed=0, **about)
    table = table_of(tmp_path)

    assert list(facts_of(table, "wanda 2:4").tracks) == ["knowledge"]
    assert not any("mean bits per byte code" in c.name for c in table.columns)


def test_one_name_for_two_contents_is_not_compared(tmp_path):
    """Questions are numbers, so only the digests of their texts tell two releases of a data set
    apart."""
    for method, seed in (("dense", None), ("wanda", 0)):
        fake_records.perplexity(tmp_path, method=method, seed=seed)
        for task in TASKS[1:]:
            digest = "2" if task.startswith("code") and seed == 0 else "1"
            inputs = {"measure": {"content": digest * 64}}
            fake_records.answers(tmp_path, task, method=method, seed=seed, key_inputs=inputs)
    assert list(facts_of(table_of(tmp_path), "wanda 2:4").tracks) == ["knowledge", "mathematics"]


@pytest.mark.parametrize("made", ["a", "b", "c"])
def test_seeds_are_those_of_all_tasks_whatever_the_order_of_the_records(made, tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    for task in TASKS[:2]:
        fake_records.answers(tmp_path, task, method="dense")
        fake_records.perplexity(tmp_path, method="wanda", seed=0)
        for seed, factor in enumerate((1.1, 1.5, 1.9)):
            fake_records.answers(tmp_path, task, factor, seed=seed, made=made, lost=6, gained=2)
    # The other task of this seed is missing.
    fake_records.answers(tmp_path, TASKS[0], 9.0, seed=3)

    code = facts_of(table_of(tmp_path), "wanda 2:4").tracks["code"]
    assert code.loss.value == pytest.approx(0.5)
    # Seed 3 of the first task counts for the noise of the row.
    assert code.change.stderr > 0.4 / 3**0.5
    assert code.flips.changed.parts[0] == 0.2
    assert code.flips.changed.low < 0.13, "a question counts once"


@pytest.mark.parts("leaderboard")
def test_tables_figure_and_latex_have_every_row(root, table):
    from bench.parts.leaderboard import board_files as leaderboard
    from bench.parts.leaderboard import latex

    losses, rises, order, flips = profile.text_tables(table)

    assert [line[0] for line in losses.lines] == ["sparsegpt 2:4", "wanda 2:4"], "by bytes"
    assert losses.headers[1:4] == ["MB", "bits per weight", "perplexity ratio"]
    assert losses.headers[4:] == ["knowledge", "mathematics", "code"]
    assert losses.lines[1][6].startswith("40.") and "(" in losses.lines[1][6]
    assert rises.lines[1][5] == "0.41 (0.38 to 0.44)"
    assert flips.lines[0][5].endswith(", −15.0 +5.0")
    assert order.lines[0][3] == "code 1, mathematics 2, knowledge 3"
    svg = draw(table)
    assert "wanda 2:4, code: 40" in svg and svg.count("MB") >= 2
    files = leaderboard.build([root], root / "no papers")
    assert b"Order of the losses" in files["leaderboard.md"]
    ties = latex.escape("code 1, mathematics 2–3, knowledge 2–3")
    assert ties.encode() in files["leaderboard.tex"]


def draw(table):
    from bench.parts.leaderboard import table_figures

    figures = table_figures.draw_all(table, "tiny")
    (svg,) = (figure.svg for figure in figures if "what each track loses" in figure.title)
    return svg


@pytest.mark.parts("leaderboard")
@pytest.mark.parametrize(("questions", "mark"), [(6, "*"), (24, "")])
def test_an_interval_of_few_questions_has_an_asterisk(tmp_path, questions, mark):
    for method, factor, noise in (("dense", 1.0, 0.0), ("wanda", 1.2, 0.1)):
        fake_records.perplexity(tmp_path, 0.0, method=method)
        fake_records.answers(tmp_path, TASKS[0], factor, n=questions, noise=noise, method=method)
    table = table_of(tmp_path)
    (line,) = profile.text_tables(table)[0].lines
    assert line[-1].endswith(f"){mark}")
    assert ("*" in draw(table)) == bool(mark)


@pytest.mark.parts("leaderboard")
def test_a_label_has_two_lines_at_most_and_ends_in_its_size(tmp_path):
    from bench.parts.leaderboard import table_figures

    long = "sparsegpt + recon + retrain:hidden=1.0:hidden_every=8"
    labels = {
        "wanda": "wanda 2:4, 9 MB",
        "permute + sparsegpt + ria": "permute + sparsegpt + ria 2:4,\n9 MB",
        long: "sparsegpt + recon + retrain:hidd\nen=1.0:hidden_every=8 2:4, 9 MB",
    }
    for method in ("dense", *labels):
        fake_records.perplexity(tmp_path, method=method)
        fake_records.answers(tmp_path, TASKS[0], method=method)
        fake_records.bits(tmp_path, 9.0, method=method)
    table = table_of(tmp_path)

    figure = table_figures.draw_profile(table, profile.rows_of(table), profile.names_of(table))

    found = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {text.replace("\N{NO-BREAK SPACE}", " ") for text in found} == set(labels.values())


def with_file(table):
    """Add the row of the file that the dense model came from, which loses nothing."""
    (row,) = (row for row in table.rows if row.name == "sparsegpt 2:4")
    nothing = TrackLoss(Bound(0.0, 0.0, 0.0), Change(0.0, 0.0, 1.0), Change(0.0, 0.0, 1.0))
    facts = replace(row.facts, tracks=dict.fromkeys(row.facts.tracks, nothing))
    file = replace(row, facts=facts, filters=row.filters | {"quantizer": "Q4_1 file"})
    return replace(table, rows=(*table.rows, file))


def test_rows_are_picked_by_tracks(root, table, output):
    limits = parse_limits(max_loss="8%")
    kept = candidates.pick(table, limits, tracks=["mathematics", "knowledge"])

    assert [c.row.name for c in kept.meets] == ["sparsegpt 2:4"]
    assert kept.nearest.row.name == "wanda 2:4"
    assert candidates.pick(table, limits, tracks=["code"]).meets == ()
    tracks = ["mathematics", "knowledge"]
    both, one = (candidates.keep(kept.nearest.facts, tracks[:n]).loss for n in (2, 1))
    assert both.value == one.value and both.high > one.high  # the other track's may be the largest
    strict = parse_limits(max_loss="5%")
    with pytest.raises(UserError, match=r"--max-loss 5% cannot be told .* surely meets is 6.5%"):
        candidates.pick(table, strict, tracks=["mathematics", "knowledge"])
    with pytest.raises(UserError, match=r"--max-loss 5% cannot be told .* surely meets is 6.5%"):
        candidates.pick(with_file(table), strict, tracks=["mathematics", "knowledge"])
    with pytest.raises(UserError, match="unknown track of tiny 'reading'"):
        candidates.pick(table, limits, tracks=["reading"])
    line = ("pick", "--model", "tiny", "--results", root)
    out = output(*line, "--keep", "knowledge", "--max-loss", "3%")
    assert "First: sparsegpt 2:4" in out


def test_rows_are_picked_by_tracks_alone(tmp_path, cli, output, refused):
    """Rows are in the order of their loss. A row without the track is left out."""
    for method, tasks, factor in (
        ("dense", TASKS, 1.0), ("wanda", TASKS, 1.04), ("sparsegpt", TASKS, 1.02),
        ("ria", TASKS[2:], 1.01),
    ):  # fmt: skip
        for task in tasks:
            fake_records.answers(tmp_path, task, factor, method=method, seed=0)
    line = ("pick", "--model", "tiny", "--results", tmp_path)

    out = output(*line, "--keep", "code", "--max-loss", "5%")
    assert "2 of 3 compressed rows meet" in out and "Left out, not measured (loss): ria 2:4" in out
    assert out.index("sparsegpt 2:4") < out.index("wanda 2:4") and "First: sparsegpt 2:4" in out
    assert "First: ria 2:4" in cli(*line, "--keep", "mathematics", "--max-loss", "5%")[1]
    assert "--keep knowledge,mathematics,code --max-loss 5%" in refused(*line)
