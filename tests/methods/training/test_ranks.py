"""Two processes train what one does."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.results.store import Store
from bench.run import ranks
from helpers import runs
from helpers.models import job_for
from helpers.trainings import LAST_DIGIT, counting, job_to_train, method
from methods.folder import Folder

HERE = Path(__file__).parents[2]


PAIRS = [
    ("cast", "llama"),
    ("cast", "gpt2"),
    ("cast:wanda-mask", "gpt2"),
    ("elsa", "llama"),
    ("retrain", "gpt2"),
    ("sr-ste", "llama"),
    ("maskllm", "gpt2"),
    ("proxsparse", "gpt2"),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made of each pair, in a folder named after it: their start costs more than all trainings."""
    out = tmp_path_factory.mktemp("two")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(HERE / "helpers/two_ranks.py"), str(out), *(f"{name},{family}" for name, family in PAIRS),
    ]  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_two_ranks_equal_one_process(name, family, two, tmp_path, make_exact):
    """In float64: two ranks add gradients up in another order, and Adam divides what that rounds, 1e-16, by 1e-8 at least;
    so twelve steps of 3e-3 part by at most 4e-10, and no near tie is settled the other way.
    """
    model = make_exact(family)
    job = job_to_train(model, job_for, counting(), tmp_path / "one", steps=12)
    one = method(name).apply(model, job)

    folder = two / f"{name},{family}"
    two = Folder(folder / "model")
    for key, tensor in one.model.named_parameters():
        got = two.tensor(key)
        assert torch.equal(got != 0, tensor != 0), key
        torch.testing.assert_close(got, tensor, rtol=0, atol=1e-9)
    losses = [float(x) for x in (folder / "curve.txt").read_text().split()]
    assert losses == pytest.approx([row["loss"] for row in one.notes["curve"]], rel=LAST_DIGIT)


def test_sums_of_one_process_are_its_own():
    from methods.training import ranks

    assert ranks.all_reduce_sum(1.0, 2.0) == [1.0, 2.0]
    assert ranks.rank_and_world() == (0, 1)
    assert torch.equal(ranks.all_reduce_mean(torch.ones(2)), torch.ones(2))


def test_a_run_of_two_processes_is_a_run_of_one(tmp_path, monkeypatch):
    """From the plan to the record; by another key, since rounding differs."""
    runs.own_cache(tmp_path, monkeypatch)
    training = {"tokens": 4096, "batch": 8, "seqlen": 32}
    for processes in (1, 2):
        spec = runs.small(
            tmp_path / "r", methods=("cast",), measures=("perplexity",), training=training | {"processes": processes}
        )
        runs.run_here(spec, only=("cast",))

    found = [r for r in Store(tmp_path / "r", write=False) if r.identity.measure == "perplexity"]
    assert [r.status for r in found] == ["ok", "ok"], [r.reason for r in found]
    one, two = (r.readings[0].value for r in found)
    assert found[0].key != found[1].key
    # in float32: moved by one rounding, the start of such a training parts its loss by 2e-4 within twenty steps
    assert one == pytest.approx(two, rel=1e-3)


def test_a_helper_that_dies_is_a_failed_row(tmp_path, monkeypatch):
    runs.own_cache(tmp_path, monkeypatch)
    command = [sys.executable, "-c", "import sys; sys.exit(3)"]
    monkeypatch.setattr(ranks, "start_ranks", partial(ranks.start_ranks, command=command))
    training = {"tokens": 4096, "batch": 8, "seqlen": 32, "processes": 2}
    spec = runs.small(tmp_path / "r", methods=("cast",), measures=("perplexity",), training=training)
    runs.run_here(spec, only=("cast",))

    (record,) = [r for r in Store(tmp_path / "r", write=False) if r.identity.measure == "perplexity"]
    assert record.status == "failed"
    assert "rank 1 ended with code 3 before it began" in record.reason
