"""What is refused since it cannot fit, with what would let it."""

import pytest
import torch

from bench import api
from bench.inputs.shapes import planned_model
from bench.planning import refusal
from bench.planning.memory import estimate_bytes, estimate_device_bytes
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
    shared = count if name == "calibration" else 1
    artifact = of(methods=(method,), calibration={"sequences": 8, "processes": shared})
    changes = {"device": "cuda", "processes": count if name == "training" else 1}
    problem = refusal.find_problem(artifact.model_copy(update=changes))

    said = f"takes 8 GPUs, and this machine has 4: use --set {name}.processes=4"
    assert (said in problem) != fits and bool(problem) != fits


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

    problem = refusal.find_problem(artifact)
    assert "about 247.3 GB of each GPU" in problem and "training.processes=4" in problem
    eight = artifact.model_copy(update={"processes": 8})
    assert refusal.find_problem(eight) == ""
    # Its training takes less than this.
    assert estimate_device_bytes(eight) == pytest.approx(2 * 26.03e9, rel=1e-3)
    four = estimate_device_bytes(artifact.model_copy(update={"processes": 4}))
    assert four == pytest.approx(19 * 13.016e9 / 4 + 0.66e9 + 2 * 317e6 * 6, rel=0.01)
    of_two_nodes = estimate_bytes(eight.model_copy(update={"nodes": 2}))
    assert of_two_nodes == pytest.approx(4 * 4e9 + 26.03e9, rel=1e-3)
