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
    measure = "bench.execution.runner.measure_again"
    monkeypatch.setattr(measure, lambda record, root: change(record.model_copy(deep=True)))


def moved(by=1.0, stderr=1.0, **fields):
    """Multiply a value, or its standard error, as other items with the same mean have."""

    def change(record):
        reading = record.readings[0]
        numbers = {"value": reading.value * by, "stderr": reading.stderr * stderr}
        record.readings[0] = reading.model_copy(update=numbers)
        return record.model_copy(update=fields)

    return change


@pytest.mark.parametrize(
    ("change", "code", "verdict"),
    [
        (moved(), 0, "equal"),
        (moved(1 + 1e-9), 1, "differs"),  # the same machine and code
        (moved(stderr=1 / 3), 1, "differs: standard error or n of perplexity"),
        (moved(1.001, provenance={}), 0, "within tolerance"),
        (moved(1.02, provenance={}), 1, "differs"),
        (moved(1.001, key="0" * 64), 0, "within tolerance"),
        (moved(status="failed", reason="OOM"), 1, "differs"),
        (moved(token_digest="other"), 1, "differs"),
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
    line = ("check", root, "--remeasure", 1, "--seed")
    assert 1 < len({cli(*line, seed)[1] for seed in (0, 0, 1, 2, 3, 4)}) < 6


def test_what_cannot_be_measured_here(root, cli, monkeypatch):
    def refuse(record):
        raise UserError("tiny is not downloaded yet")

    again(monkeypatch, refuse)

    code, out, err = cli("check", root, "--remeasure", 1)

    assert code == 2 and "not measured: tiny is not downloaded yet" in out
    assert "cannot be measured again here" in err and len(err.splitlines()) == 1


def test_another_recipe_is_said_and_not_measured(monkeypatch, tmp_path):
    """The typed method is the same, but the record's recipe had another learning rate."""
    monkeypatch.setattr("bench.execution.runner.execute", lambda *_: pytest.fail("it was measured"))
    spec = {"models": ("tiny",), "methods": ("dense-ft",), "quantizers": ("none",)}
    spec |= {"measures": ("perplexity",), "results": tmp_path}
    planned = make_plan(Spec(**spec)).measurements[-1]
    inputs = planned.key_inputs()
    (stage,) = inputs["stages"]
    old = inputs | {"stages": [stage | {"config": stage["config"] | {"lr": 0.5}}]}
    record = fake_records.record(key_inputs=old, provenance={"commit": {"id": "c0ffee"}})
    record = record.model_copy(update={"identity": planned.identity})

    with pytest.raises(UserError, match=r"^dense-ft of .* has lr 0.5, and .* the code of c0ffee$"):
        measure_again(record, tmp_path)
