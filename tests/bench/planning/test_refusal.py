"""What is refused since it cannot fit, with what would let it."""

import pytest
import torch

from bench import api
from bench.inputs.shapes import planned_model
from bench.planning import refusal
from bench.planning.memory import (
    estimate_bytes,
    estimate_device_bytes,
    training_device_bytes,
    with_recompute,
)
from bench.planning.sizes import count_sizes
from helpers import runs
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


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
    ("processes", "gigabytes", "words"),
    [
        (1, 0.25, "use cast:recompute=true"),
        (1, 0.19, "training.processes=2"),
        (4, 0.19, ""),
        (1, 0.005, "smaller model"),
    ],
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
    shared = count if name == "calibration" else 1
    artifact = of(methods=(method,), calibration={"sequences": 8, "processes": shared})
    changes = {"device": "cuda", "processes": count if name == "training" else 1}
    problem = refusal.find_problem(artifact.model_copy(update=changes))

    said = f"takes 8 GPUs, and this machine has 4: use --set {name}.processes=4"
    assert (said in problem) != fits and bool(problem) != fits


@pytest.fixture
def trained_on(monkeypatch):
    """trained_on(model, processes) -> CAST of a model on cards of 80 GB, one each process."""
    monkeypatch.setattr(refusal, "_gpu_bytes", lambda device: 80e9)

    def make(model, processes):
        facts = planned_model(model)
        artifact = of(methods=("cast",))
        training = {"batch": 256, "micro": 1, "seqlen": 4096}
        return artifact.model_copy(
            update={
                "sizes": count_sizes(facts, facts.linears),
                "device": "cuda",
                "dtype": "bfloat16",
                "processes": processes,
                "training": artifact.training.model_copy(update=training),
            }
        )

    return make


def test_llama2_70b_trains_on_32_cards_which_measure_it_block_by_block(trained_on):
    """Its two models in bfloat16 take 276 GB."""
    assert refusal.find_problem(with_recompute(trained_on("llama2-70b", 32))) == ""
    said = refusal.find_problem(with_recompute(trained_on("llama2-70b", 16)))
    assert said.endswith("use --set training.processes=32")


def test_llama2_13b_trains_on_eight_cards_of_80_gb_with_recompute(trained_on):
    """Each has an eighth of 19 bytes a weight, two blocks and the teacher's head. A step of 4096
    tokens adds activations, copies of the weights in bfloat16 and logits."""
    eight = trained_on("llama2-13b", 8)
    parameters, block, head, states = 13.016e9, 317e6, 32000 * 5120, 4096 * 5120
    divided = 19 * parameters / 8 + 2 * head * 2 + 2 * block * 6
    logits = 8 * head + 32 * 4096 * 32000
    kept = 36 * states * 40 + 2 * parameters
    again = 4 * states * 40 + 36 * states + 2 * 2 * block

    assert estimate_device_bytes(eight) == pytest.approx(divided + kept + logits, rel=1e-3)
    assert divided + kept + logits == pytest.approx(97e9, rel=0.01)
    saving = with_recompute(eight)
    assert training_device_bytes(saving, 8) == pytest.approx(divided + again + logits, rel=1e-3)
    assert divided + again + logits == pytest.approx(46e9, rel=0.01)
    assert refusal.find_problem(eight).endswith("use cast:recompute=true")
    assert refusal.find_problem(saving) == ""
    assert estimate_device_bytes(saving) == pytest.approx(2 * 26.03e9, rel=1e-3), "to be measured"
    assert estimate_bytes(eight.model_copy(update={"nodes": 2})) == pytest.approx(
        4 * 4e9 + 26.03e9, rel=1e-3
    )
