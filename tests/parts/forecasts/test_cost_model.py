"""Estimates from past records: rates by kind, their error, and what is refused since it cannot
fit."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from bench import api
from bench.inputs.shapes import planned_model
from bench.parts.forecasts import plan_costs as estimate
from bench.planning import refusal
from bench.parts.forecasts.cost_model import CostModel
from bench.planning.memory import estimate_bytes, estimate_device_bytes, model_bytes
from bench.parts.forecasts.past_costs import PastCost, machine_of, measure_part, read_past, stage_part
from bench.planning.sizes import count_sizes
from bench.system import provenance
from helpers import runs
from methods.contract.errors import UserError

RECORDS = Path(__file__).parents[3] / "results/smollm2-search/records"


pytestmark = pytest.mark.usefixtures("cache")


def cost(artifact, parameters=1e6, calibration=1000, training=0, slow=1.0, name="wanda"):
    """As of a machine that takes 1 ns a weight and token of perplexity, and 3 of calibration or
    training."""
    stage = 3e-9 * parameters * max(calibration, training) * slow
    parts = [
        stage_part(name, parameters, calibration, training, stage),
        measure_part("perplexity", "", parameters, 5000, 1e-9 * parameters * 5000 * slow),
    ]
    return PastCost(
        ("m",), artifact, parameters, 4, parts, 2 * (1e9 + 8 * parameters), bool(training)
    )


def test_rates_are_found_and_scale_with_weights_and_tokens():
    model = CostModel([cost("a"), cost("b"), cost("c")])
    parts = [stage_part("wanda", 5e6, 2000, 0), measure_part("perplexity", "", 5e6, 100)]

    assert model.seconds(parts) == pytest.approx(3e-9 * 5e6 * 2000 + 1e-9 * 5e6 * 100)
    assert model.memory_ratio(False) == pytest.approx(2.0) and model.memory_ratio(True) is None


def test_another_method_takes_the_rate_of_those_that_need_the_same():
    model = CostModel(
        [
            cost("a", name="wanda"),
            cost("b", name="ria", slow=1.0),
            cost("c", name="admm", slow=10.0),
        ]
    )

    assert model.seconds([stage_part("new", 1e6, 1000, 0)]) == pytest.approx(3.0)
    assert model.seconds([stage_part("admm", 1e6, 1000, 0)]) == pytest.approx(30.0)
    assert model.seconds([stage_part("cast", 1e6, 0, 1000)]) is None
    assert model.seconds([measure_part("agreement", "", 1e6, 5)]) is None


def test_a_loaded_moment_moves_nothing_and_the_error_says_it():
    model = CostModel([*(cost(str(i)) for i in range(8)), cost("slow", slow=20.0)])

    assert model.seconds(cost("x").parts) == pytest.approx(cost("x").seconds)
    error = model.error()
    assert (
        error.artifacts == 9
        and error.share == pytest.approx(8 / 9)
        and error.median == pytest.approx(1.0)
    )
    assert CostModel([cost("a"), cost("b")]).error() is None
    pair = CostModel([cost("a"), cost("b", slow=4.0)])
    assert [factor for _, factor in pair.leave_one_out()] == pytest.approx([4.0, 0.25]), (
        "none is estimated from itself"
    )


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
    model = estimate.fit_model(beside)
    assert len(model.past) == 4 and "fitted to 4 artifacts" in estimate.describe_error(model)
    assert all(row["about_s"] is not None for row in estimate.rows(beside, model))
    other_threads = api.plan(runs.small(tmp_path / "r/two", threads=2))
    assert not estimate.fit_model(other_threads).past
    assert "are arithmetic" in estimate.describe_error(estimate.fit_model(other_threads))
    monkeypatch.setattr(refusal, "memory_bytes", lambda: 1)
    assert len(api.execute(spec).records) == 8


def reading(name, value):
    def change(fields):
        return fields | {
            "readings": [
                r | ({"value": value} if r["metric"] == name else {}) for r in fields["readings"]
            ]
        }

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields | {"cost": fields["cost"] | {"wall_s": 10**400}},
        lambda fields: fields | {"cost": fields["cost"] | {"wall_s": -0.5}},
        lambda fields: fields | {"cost": {"wall_s": "NaN"}},
        reading("parameters", 10**400),
        reading("parameters", 0),
        lambda fields: [],
        lambda fields: fields | {"identity": 3},
        lambda fields: fields | {"key_inputs": {}},
    ],
)
def test_damaged_records_are_skipped(tmp_path, change):
    folder = tmp_path / "r/records"
    shutil.copytree(RECORDS, folder)
    (folder / "deep.json").write_text("[" * 100_000)
    assert len(read_past(tmp_path / "r")) == 3

    for path in RECORDS.glob("*.json"):
        (folder / path.name).write_text(json.dumps(change(json.loads(path.read_text()))))
    assert read_past(tmp_path / "r") == []


def of(**changes):
    plan = api.plan(runs.small("r", **changes))
    return next(m.artifact for m in plan.measurements if m.artifact.method != "dense")


@pytest.mark.parametrize(
    ("changes", "gigabytes", "words"),
    [
        ({"methods": ("magnitude",)}, 1.003, "--dtype bfloat16, or --set stream=true"),
        ({"methods": ("magnitude",), "dtype": "bfloat16"}, 1.0015, "use --set stream=true"),
        ({"methods": ("cast",)}, 1.01, "training.processes=N"),
        ({"methods": ("magnitude",), "stream": True}, 1.003, ""),
        ({"methods": ("magnitude",)}, 2.0, ""),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would_let_it(
    monkeypatch, tmp_path, changes, gigabytes, words
):
    monkeypatch.setattr(refusal, "memory_bytes", lambda: gigabytes * 1e9 / refusal.SHARE)
    problem = refusal.find_problem(of(**changes))

    assert words in problem and bool(words) == bool(problem) and len(problem.splitlines()) <= 1
    if words:
        runs.workers_here(monkeypatch)
        with pytest.raises(UserError, match="this machine has"):
            api.execute(runs.small(tmp_path / "r", **changes))
        assert not list((tmp_path / "r/records").glob("*.json"))


@pytest.mark.parametrize(
    ("device", "shared", "parts"),
    [
        ("cuda", {"processes": 4, "nodes": 2}, 4),
        ("cpu", {"processes": 4}, 1),
        ("cpu", {"processes": 4, "nodes": 2}, 2),
    ],
)
def test_a_training_is_shared_by_cards_and_by_machines_with_processors(device, shared, parts):
    plan = api.plan(runs.small("r", methods=("cast",), measures=("pattern",)))
    (trained,) = [m for m in plan.measurements if m.artifact.training]
    alone, together = (
        trained.model_copy(
            update={"artifact": trained.artifact.model_copy(update={"device": device} | changes)}
        )
        for changes in ({}, shared)
    )
    one, several = (estimate.count_operations([[m]]) for m in (alone, together))

    assert several == pytest.approx(one / parts, rel=0.01)


@pytest.mark.parametrize(
    ("processes", "gigabytes", "words"),
    [(1, 0.013, "training.processes=4"), (4, 0.013, ""), (1, 0.005, "smaller model")],
)
def test_a_training_on_cards_names_how_many(monkeypatch, processes, gigabytes, words):
    monkeypatch.setattr(refusal, "_gpu_bytes", lambda device: gigabytes * 1e9 / refusal.SHARE)
    artifact = of(methods=("cast",)).model_copy(update={"device": "cuda", "processes": processes})
    problem = refusal.find_problem(artifact)

    assert words in problem and bool(words) == bool(problem)
    assert estimate_bytes(artifact) > 3e9, "CUDA's libraries take main memory"


@pytest.mark.parametrize(("method", "name"), [("cast", "training"), ("wanda", "calibration")])
@pytest.mark.parametrize(("count", "fits"), [(8, False), (4, True)])
def test_more_processes_than_cards_are_refused(monkeypatch, method, name, count, fits):
    monkeypatch.setattr(refusal, "_gpu_bytes", lambda device: 80e9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    training, shared = (
        {"processes": count if name == "training" else 1},
        count if name == "calibration" else 1,
    )
    artifact = of(methods=(method,), calibration={"sequences": 8, "processes": shared})
    problem = refusal.find_problem(artifact.model_copy(update={"device": "cuda"} | training))

    assert (
        problem == ""
        if fits
        else f"takes 8 GPUs, and this machine has 4: use --set {name}.processes=4" in problem
    )


def test_llama2_13b_trains_on_eight_cards_of_80_gb(monkeypatch):
    """13 billion weights: teacher and student with its optimizer are 19 bytes a weight, of which a
    GPU has an eighth, 31 GB, and the blocks and the head that it has whole. To be measured, two
    models of 26 GB."""
    monkeypatch.setattr(refusal, "_gpu_bytes", lambda device: 80e9)
    facts = planned_model("llama2-13b")
    sizes = count_sizes(facts, facts.linears)
    artifact = of(methods=("cast",)).model_copy(
        update={"sizes": sizes, "device": "cuda", "dtype": "bfloat16"}
    )

    assert (
        "takes about 247.3 GB of each GPU to train, and a GPU has 76.0 GB: use --set "
        "training.processes=4" in (refusal.find_problem(artifact))
    )
    eight = artifact.model_copy(update={"processes": 8})
    assert refusal.find_problem(eight) == ""
    assert estimate_device_bytes(eight) == pytest.approx(2 * 26.03e9, rel=1e-3), (
        "its training takes less than this"
    )
    four = artifact.model_copy(update={"processes": 4})
    assert estimate_device_bytes(four) == pytest.approx(
        (2 + 17) * 13.016e9 / 4 + 0.66e9 + 2 * 317e6 * 6, rel=0.01
    )
    assert estimate_bytes(eight.model_copy(update={"nodes": 2})) == pytest.approx(
        4 * 4e9 + 26.03e9, rel=1e-3
    )


def test_a_plan_may_be_for_cards_of_another_machine(cli, tmp_path):
    code, out, err = cli(
        "plan",
        "--methods",
        "cast",
        "--device",
        "cuda",
        "--json",
        *runs.flags(tmp_path / "r", device="cuda"),
    )
    assert code == 0 and "device 'cuda' is not on this machine: planned for one that has it" in err
    assert all(row["about_device_GB"] >= 0 for row in json.loads(out))
