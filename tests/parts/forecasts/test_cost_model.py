"""Estimates from past records: rates by kind, their error, and what is refused since it cannot
fit."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bench import api
from bench.parts.forecasts import plan_costs
from bench.parts.forecasts.cost_model import CostModel
from bench.parts.forecasts.past_costs import (
    PastCost,
    machine_of,
    measure_part,
    read_past,
    stage_part,
)
from bench.planning import refusal
from bench.planning.memory import model_bytes
from bench.system import provenance
from helpers import runs

RECORDS = Path(__file__).parents[3] / "results/smollm2-205k/records"


pytestmark = pytest.mark.usefixtures("cache")


def cost(artifact, parameters=1e6, calibration=1000, training=0, slow=1.0, name="wanda"):
    """As of a machine that takes 1 ns a weight and token of perplexity, and 3 of calibration or
    training."""
    stage = 3e-9 * parameters * max(calibration, training) * slow
    parts = [
        stage_part(name, parameters, calibration, training, stage),
        measure_part("perplexity", "", parameters, 5000, 1e-9 * parameters * 5000 * slow),
    ]
    return PastCost(("m",), artifact, parameters, 4, parts, 2 * (1e9 + 8 * parameters))


def test_rates_are_found_and_scale_with_weights_and_tokens():
    model = CostModel([cost("a"), cost("b"), cost("c")])
    parts = [stage_part("wanda", 5e6, 2000, 0), measure_part("perplexity", "", 5e6, 100)]

    assert model.seconds(parts) == pytest.approx(3e-9 * 5e6 * 2000 + 1e-9 * 5e6 * 100)
    assert model.memory_ratio == pytest.approx(2.0) and CostModel([]).memory_ratio is None


def test_no_method_takes_the_rate_of_another():
    model = CostModel([cost("a", name="wanda"), cost("c", name="admm", slow=10.0)])

    assert model.seconds([stage_part("admm", 1e6, 1000, 0)]) == pytest.approx(30.0)
    assert model.seconds([stage_part("new", 1e6, 1000, 0)]) is None
    assert model.seconds([stage_part("cast", 1e6, 0, 1000)]) is None
    assert model.seconds([measure_part("agreement", "", 1e6, 5)]) is None


def test_records_of_the_same_model_come_first_and_a_dense_row_is_compared_with_nothing():
    def agreement(seconds, model, label=""):
        return measure_part("agreement", "", 1e6, 10, seconds, model=model, label=label)

    parts = [agreement(30.0, "a"), agreement(9.0, "b"), agreement(1.0, "b", label="dense")]
    past = [PastCost(("m",), str(i), 1e6, 4, [part]) for i, part in enumerate(parts)]
    model = CostModel(past)

    assert [model.seconds([part]) for part in parts] == pytest.approx([30.0, 9.0, 1.0])
    assert model.seconds([agreement(0, "new")]) == pytest.approx(19.5)
    assert model.seconds([agreement(0, "a", label="dense")]) == pytest.approx(30.0)


def test_a_loaded_moment_moves_nothing_and_the_error_says_it():
    model = CostModel([*(cost(str(i)) for i in range(8)), cost("slow", slow=20.0)])

    assert model.seconds(cost("x").parts) == pytest.approx(cost("x").seconds)
    error = model.error()
    assert error.artifacts == 9 and error.share == pytest.approx(8 / 9)
    assert error.median == pytest.approx(1.0)
    assert CostModel([cost("a"), cost("b")]).error() is None
    pair = CostModel([cost("a"), cost("b", slow=4.0)])
    found = [factor for _, factor in pair.leave_one_out()]
    assert found == pytest.approx([4.0, 0.25]), "none is estimated from itself"


def test_a_folder_beside_that_cannot_be_read_has_no_records(tmp_path, monkeypatch):
    for name in ("own", "locked"):
        (tmp_path / name / "records").mkdir(parents=True)

    def scandir(folder, real=os.scandir):
        if Path(folder).parent.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)

    assert read_past(tmp_path / "own") == []


def test_a_plan_goes_by_the_records_of_this_machine_and_what_is_measured_is_not_refused(
    tmp_path, monkeypatch
):
    spec = runs.small(tmp_path / "r/one", methods=("magnitude", "wanda", "ria"), measures=("size",))
    runs.run_here(spec)
    past = read_past(tmp_path / "r/one")
    records = [json.loads(p.read_text()) for p in (tmp_path / "r/one/records").glob("*.json")]

    assert len(past) == 4
    total = sum(r["cost"]["wall_s"] + r["cost"].get("build_s", 0) for r in records)
    assert sum(p.seconds for p in past) == pytest.approx(total)
    assert {p.machine for p in past} == {machine_of(provenance.machine(), "cpu", "float32", 1)}
    assert all(
        p.parameters
        == pytest.approx(model_bytes(api.plan(spec).measurements[0].artifact) / 4, rel=0.02)
        for p in past
    )
    beside = api.plan(runs.small(tmp_path / "r/two", methods=("admm",), measures=("size",)))
    model = plan_costs.fit_model(beside)
    assert len(model.past) == 4 and "fitted to 4 artifacts" in plan_costs.describe_error(model)
    assert all(row["about_s"] is not None for row in plan_costs.estimate_columns(beside, model))
    other_threads = api.plan(runs.small(tmp_path / "r/two", threads=2))
    assert not plan_costs.fit_model(other_threads).past
    assert "are arithmetic" in plan_costs.describe_error(plan_costs.fit_model(other_threads))
    monkeypatch.setattr(refusal, "memory_bytes", lambda: 1)
    assert len(api.execute(spec).records) == 8


def test_a_tuned_row_has_a_rate_of_its_own(tmp_path):
    def trellis(folder, quantizer, seed=0):
        return runs.small(
            tmp_path / folder,
            methods=("dense",),
            quantizers=(quantizer,),
            measures=("size",),
            seeds=(seed,),
        )

    for steps, seconds in ((1, 70.0), (2, 900.0)):
        runs.run_here(trellis(f"past{steps}", f"tcq2:tune={steps}"))
        for path in (tmp_path / f"past{steps}/records").glob("*.json"):
            fields = json.loads(path.read_text())
            if "build_s" in fields["cost"]:
                fields["cost"]["build_s"] = seconds
            path.write_text(json.dumps(fields))

    for steps, seconds in ((1, 70.0), (2, 900.0)):
        planned = api.plan(trellis("new", f"tcq2:tune={steps}", seed=1))
        [row] = plan_costs.estimate_columns(planned, plan_costs.fit_model(planned))
        assert row["about_s"] == pytest.approx(seconds, abs=5.0)


def reading(name, value):
    def change(fields):
        for one in fields["readings"]:
            one |= {"value": value} if one["metric"] == name else {}
        return fields

    return change


@pytest.mark.parametrize(
    "change",
    [lambda fields: fields | {"cost": fields["cost"] | {"wall_s": 10**400}},
     lambda fields: fields | {"cost": fields["cost"] | {"wall_s": -0.5}},
     lambda fields: fields | {"cost": {"wall_s": "NaN"}}, reading("parameters", 10**400),
     reading("parameters", 0), lambda fields: [], lambda fields: fields | {"identity": 3},
     lambda fields: fields | {"key_inputs": {}}],
)  # fmt: skip
def test_damaged_records_are_skipped(tmp_path, change):
    folder = tmp_path / "r/records"
    shutil.copytree(RECORDS, folder)
    (folder / "deep.json").write_text("[" * 100_000)
    assert len(read_past(tmp_path / "r")) == 7

    for path in RECORDS.glob("*.json"):
        (folder / path.name).write_text(json.dumps(change(json.loads(path.read_text()))))
    assert read_past(tmp_path / "r") == []


def test_a_plan_may_be_for_cards_of_another_machine(cli, tmp_path):
    code, out, err = cli(
        "plan --methods cast --device cuda --json", *runs.flags(tmp_path / "r", device="cuda")
    )
    assert code == 0 and "device 'cuda' is not on this machine: planned for one that has it" in err
    assert all(row["about_device_GB"] >= 0 for row in json.loads(out))


def test_times_are_in_a_persons_units(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(plan_costs, "START_S", 458_844.0)
    monkeypatch.setattr(plan_costs, "_flops", lambda threads: 1e18)
    _, shown, _ = cli("plan", "--methods", "magnitude", *runs.flags(tmp_path / "r"))
    _, rows, _ = cli("plan", "--methods", "magnitude", "--json", *runs.flags(tmp_path / "r"))

    assert "~time" in shown and "5.3 days" in shown and "458,844" not in shown
    assert [row["about_s"] for row in json.loads(rows)] == [458_844] * 2
