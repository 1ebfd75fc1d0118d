"""Trained rows in the docs: the source of their settings, and a mark if their schedules differ."""

import pytest

CAST, RETRAIN = ("tiny", "cast", (), ()), ("tiny", "retrain", (), ("sparsegpt",))


SCRIPT = "trained_rows"


@pytest.fixture
def row(script):
    def build(group, floor=0.0, tokens=4096, perplexity=30.0, **settings):
        label = " + ".join((*group[3], ":".join((group[1], *group[2]))))
        return script.TrainedRow(label, group, settings, floor, tokens, "", perplexity)

    return build


def test_rows_of_one_model_that_end_at_different_floors_are_marked(script, row):
    other = row(("small", "cast", (), ()), floor=0.5)
    assert script.floors([row(CAST), row(RETRAIN), other]) == ""
    text = script.floors([row(CAST), row(RETRAIN, floor=0.1), other])
    assert text.startswith("**Not one schedule** (tiny)")
    assert "0 for `cast`; 0.1 for `sparsegpt + retrain`" in text


def test_settings_come_from_the_search_that_tried_them(script, row, monkeypatch):
    ablation, held = ("tiny", "cast", ("no-kd",), ()), ("tiny", "retrain", (), ("magnitude",))
    trials = {
        ("a", CAST): [row(CAST, lr=lr, perplexity=1 / lr) for lr in (1e-3, 2e-3, 4e-3)],
        ("b", CAST): [row(CAST, lr=2e-3)],
        ("a", RETRAIN): [row(RETRAIN, lr=3e-3, tokens=t) for t in (4096, 8192)],
    }
    in_grid = ("tiny", "ast", (), ())
    grid = {
        ("c", group): [row(group, lr=lr) for lr in (4e-3, 8e-3)] * 2 for group in (CAST, in_grid)
    }
    monkeypatch.setattr(script, "_trials", {"search": trials, "grid": grid}.get)

    lines = script.settings_table(
        [
            row(CAST, lr=4.0004e-3),
            row(ablation, lr=2e-3, eta=0.0),
            row(held, lr=3e-3),
            row(in_grid, lr=8e-3),
            row(CAST, lr=5e-3),
            row(("tiny", "sr-ste", (), ()), final_lr_ratio=0.0),
            row(("tiny", "elsa", ("released",), ()), interval=2),
        ],
        lambda method, control: f"{method} to {control}",
    ).splitlines()[2:]

    found = [line.split(" | ")[2] for line in lines]
    assert found == [
        "one of 4 trials, 4,096 tokens each (`results/c`)",
        "best of 3 trials, 4,096 tokens each (`results/a`)",
        "set by hand, no search",
        "one of 3 trials of cast, 4,096 tokens each (`results/a`)",
        "the preset, no search",
        "best of 2 trials of sparsegpt + retrain, 4,096 to 8,192 tokens each (`results/a`)",
        "defaults of the method, no search",
    ]
    assert "`eta=0` `lr=0.002`" in lines[3] and lines[3].endswith(
        "| cast:no-kd to dense | cast:no-kd to dense-ft |"
    )
