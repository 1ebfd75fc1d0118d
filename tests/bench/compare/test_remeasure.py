"""Random records measured again: equal on the same machine, within a tolerance elsewhere."""

import pytest

from bench.execution.runner import measure_again
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from helpers import fake_records
from methods.contract.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    for method in ("wanda", "magnitude", "sparsegpt"):
        fake_records.perplexity(folder, method=method, made="a")
    return folder


def again(monkeypatch, change=lambda record: record):
    """Pretend that each record is measured again, with a change."""
    monkeypatch.setattr(
        "bench.execution.runner.measure_again",
        lambda record, root: change(record.model_copy(deep=True)),
    )


def moved(by, **fields):
    def change(record):
        record.readings[0] = record.readings[0].model_copy(
            update={"value": record.readings[0].value * by}
        )
        return record.model_copy(update=fields)

    return change


def narrowed(record):
    """Give it another standard error, as other items with the same mean have."""
    record.readings[0] = record.readings[0].model_copy(
        update={"stderr": record.readings[0].stderr / 3}
    )
    return record


@pytest.mark.parametrize(
    ("change", "code", "verdict"),
    [
        (lambda record: record, 0, "equal"),
        (moved(1 + 1e-9), 1, "differs"),  # the same machine and code
        (narrowed, 1, "differs: standard error or n of perplexity"),
        (moved(1.001, provenance={}), 0, "within tolerance"),
        (moved(1.02, provenance={}), 1, "differs"),
        (moved(1.001, key="0" * 64), 0, "within tolerance"),
        (
            lambda record: record.model_copy(update={"status": "failed", "reason": "OOM"}),
            1,
            "differs",
        ),
        (lambda record: record.model_copy(update={"token_digest": "other"}), 1, "differs"),
    ],
)
def test_verdicts(root, cli, monkeypatch, change, code, verdict):
    again(monkeypatch, change)

    found, out, err = cli("check", root, "--remeasure", 2, "--seed", 3)

    assert found == code, err
    assert out.count(f": {verdict}") == 2 and "chosen by seed 3" in out


def test_all_folders_are_read_before_the_first_is_measured(root, tmp_path, cli, monkeypatch):
    again(monkeypatch, lambda record: pytest.fail("measured"))
    fake_records.perplexity(tmp_path / "small")
    for other, said in (
        ("typo", "typo"),
        ("small", "--remeasure 2 is more than the 1 records with a number"),
    ):
        code, _, err = cli("check", root, tmp_path / other, "--remeasure", 2)
        assert code == 2 and said in err


def test_a_stated_tolerance(root, cli, monkeypatch):
    again(monkeypatch, moved(1.02, provenance={}))

    assert cli("check", root, "--remeasure", 1, "--tolerance", 0.05)[0] == 0


def test_the_seed_chooses(root, cli, monkeypatch):
    again(monkeypatch)
    chosen = {
        cli("check", root, "--remeasure", 1, "--seed", seed)[1] for seed in (0, 0, 1, 2, 3, 4)
    }

    assert 1 < len(chosen) < 6


def test_what_cannot_be_measured_here(root, cli, monkeypatch):
    def refuse(record, root):
        raise UserError("model 'tiny' is not downloaded yet: run bench pull tiny")

    monkeypatch.setattr("bench.execution.runner.measure_again", refuse)

    code, out, err = cli("check", root, "--remeasure", 1)

    assert code == 2 and "not measured: model 'tiny' is not downloaded yet" in out
    assert "cannot be measured again here" in err and len(err.splitlines()) == 1


def test_another_recipe_is_said_and_not_measured(monkeypatch, tmp_path):
    """The typed method is the same, but the record's recipe had another learning rate."""
    monkeypatch.setattr("bench.execution.runner.execute", lambda *_: pytest.fail("it was measured"))
    spec = {
        "models": ("tiny",),
        "methods": ("dense-ft",),
        "quantizers": ("none",),
        "measures": ("perplexity",),
    }
    planned = make_plan(Spec(**spec | {"results": tmp_path})).measurements[-1]
    inputs = planned.key_inputs()
    (stage,) = inputs["stages"]
    old = inputs | {"stages": [stage | {"config": stage["config"] | {"lr": 0.5}}]}
    record = fake_records.record(key_inputs=old, provenance={"commit": {"id": "c0ffee"}})
    record = record.model_copy(update={"identity": planned.identity})

    with pytest.raises(
        UserError, match=r"^dense-ft of record \w+ has lr 0.5, and now .*: .* the code of c0ffee$"
    ):
        measure_again(record, tmp_path)
